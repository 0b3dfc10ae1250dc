"""Engines that run a quantised model faster than transformers does."""
