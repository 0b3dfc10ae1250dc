"""Distillation: a smaller student learns what its teacher predicts."""
