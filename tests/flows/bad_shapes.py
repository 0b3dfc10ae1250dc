"""Shapes of a student that its teacher cannot have, and budgets that nothing meets."""

from pathlib import Path


def spoil_weights(folder: Path) -> None:
    """Make what some matrices give no numbers, as weights do that overflowed when they were trained."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    for name, weight in weights.items():
        if "up_proj" in name:
            weight[0] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def write_other_class(folder: Path, good: Path) -> None:
    """Write a model of a class of which only layers and channels can be cut, with the tokenizer of the model `good`."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from leanpipe.models.load import load_tokenizer

    tokenizer = load_tokenizer(good)
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=512, n_embd=64, n_layer=2, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def shapes(folder: Path) -> dict[str, tuple[list[str], str]]:
    """By name a command, and part of the one sentence that it must end with."""
    good = f"corpus=['{folder / 'corpora' / 'good'}']"

    def cut(flow: str, teacher: str, *settings: str) -> list[str]:
        words = (good, f"teacher='{folder / 'models' / teacher}'", *settings)
        return ["run", flow, "--preset", "smoke", *(word for one in words for word in ("--set", one))]

    return {
        "shrink-size": (cut("shrink", "good", "shrink.size=0.001"), "the nearest, 1 layers"),
        "shrink-part": (
            cut("shrink", "gpt2", "shrink.width=0.5"),
            "cannot be cut, only layers, MLP channels can",
        ),
        "shrink-not-numbers": (
            cut("shrink", "not-numbers"),
            "holds NaN or infinite numbers; fetch the model again",
        ),
        "search-size": (cut("search-shapes", "good", "search_shapes.size=0.001"), "the nearest, 1 layers"),
        "search-cost": (
            cut("search-shapes", "good", "search_shapes.tokens=1_000_000"),
            "search_shapes.max_cost allows 2",
        ),
        "low-rank-small": (cut("shrink", "good", "low_rank.size=0.01"), "no ranks bring this llama model"),
        "low-rank-large": (
            cut("shrink", "good", "low_rank.parameters=9_000_000"),
            "factors would be larger than the matrices that they replace",
        ),
        "low-rank-class": (
            cut("shrink", "gpt2", "low_rank.size=0.9"),
            "cannot be replaced by factors of low rank, only those of",
        ),
        "low-rank-engines": (["run", "--set", "low_rank.size=0.9"], "set low_rank.saved=dense"),
    }
