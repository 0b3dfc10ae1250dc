"""What a stage is: how it is configured, keyed, stored and reported, and what it says of itself. Everything else stands on this."""
