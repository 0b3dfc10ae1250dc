"""How good, how large and how fast models are, side by side, and which of them is registered."""
