"""On-policy distillation: a student learns from its teacher's view of answers that the student wrote."""
