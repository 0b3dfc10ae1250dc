"""How well models do tasks with known answers: a person's own, from JSONL, and those that lm-eval knows by name."""
