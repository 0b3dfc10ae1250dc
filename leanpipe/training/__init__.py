"""Train models. Its folders, from the ground up; a folder imports only from those above it in this list:

- losses: what a token costs, in chunks, by hand-written gradients; knows models and nothing of trainers
- distributed: one model in several processes, whole (forward_redirection) or in parts (fsdp)
- trainer: the one training loop, its settings, checkpoints, guards, kernels, and what it will take of memory
- distill: a student from a teacher that is asked online or was asked before (teacher_cache)
- finetune: instructions by low-rank adapters
- pretrain: a decoder from nothing, sized by its depth
- on_policy: a student on its own answers, through TRL
- quantization_aware: a model on the grid of 4 bits that it will be stored on

distill, finetune and pretrain do not know each other; on_policy and quantization_aware know distill and finetune.
"""
