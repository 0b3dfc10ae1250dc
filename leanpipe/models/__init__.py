"""Models themselves: made, loaded, counted, measured, made smaller, and computed faster. Knows nothing of their training."""
