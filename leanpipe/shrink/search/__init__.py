"""Shapes of one size, the best of them recovered for a while, and chosen by what they then are worth."""
