"""Tiny models that have learned from some text, more or less of it."""

from pathlib import Path

from leanpipe.models.load import save_model
from tests.support.tiny_models import tiny_llama, tiny_text, tiny_tokenizer


def taught(path: Path, steps: int) -> Path:
    """Write a tiny model that has learned from some text for so many steps."""
    import torch

    model, tokenizer = tiny_llama(), tiny_tokenizer()
    tokens = tokenizer("".join(tiny_text()[:5]), return_tensors="pt").input_ids[0]
    blocks = tokens[: len(tokens) // 64 * 64].view(-1, 64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps):
        batch = blocks[8 * step % len(blocks) :][:8]
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    save_model(model, tokenizer, path)
    return path
