"""The one training loop that all training stages share, and what belongs to it."""
