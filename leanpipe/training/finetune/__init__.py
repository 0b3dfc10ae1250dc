"""Finetuning on instructions with low-rank adapters."""
