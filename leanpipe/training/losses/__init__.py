"""Losses over tokens, computed chunk by chunk, with their gradients."""
