"""How a model behaves in use: the ways in which its answers are drawn, many requests at once, and what it takes of energy."""
