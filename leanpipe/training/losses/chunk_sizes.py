"""How many tokens' logits a loss holds at once: known without loading torch, for estimates of memory."""

CHUNK_TOKENS = {"cpu": 256, "cuda": 4096}
"""Tokens whose logits are held at once: on a processor 25 MB in bfloat16 for a vocabulary of 49,152. Fewer cost time: the
gradient of the head is as large as the head and is added up once per chunk, and a GPU wants larger products."""
FULL_KL_COPIES = 2
"""A divergence from a whole teacher's logits holds several tensors of their size, and so looks at fewer tokens at once."""
