"""Pretraining: a decoder with new weights learns from text."""
