"""Quantisation-aware distillation: a model learns on the very grid that it will be stored on."""
