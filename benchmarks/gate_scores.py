"""`python -m benchmarks.gate_scores HOME`: real scores of real models on the documents of a default run, for `benchmarks.gate`.

The adapted model of the default run in HOME is the champion. Challengers are what nights make of it: the student that was not
finetuned, its quantised form, and the model with a little noise in every weight, by several seeds. Each is scored on passages
of every document of the corpus: a document is a group, its passages are what is scored. That the models learned from some of
them does no harm here: the differences are centred, and what is wanted is how they scatter.
"""

import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np

KEPT = Path(__file__).parent / ".gate" / "scores.npz"
PASSAGES, PASSAGE_BYTES, CONTEXT = 2, 400, 256
NOISES = {"noise 1": (0.05, 1), "noise 2": (0.1, 2), "noise 3": (0.02, 3)}


def main(home: Path) -> None:
    from leanpipe.core.home import Home
    from leanpipe.core.store import Store

    store = Store(Home(home).store)
    documents, adapted, student = (newest(store, stage) for stage in ("clean", "finetune", "distill"))
    texts, groups = passages(documents)
    print(f"{len(texts)} passages of {groups.max() + 1} documents", flush=True)
    KEPT.parent.mkdir(exist_ok=True)
    size = np.array([len(text.encode()) for text in texts])
    bits: dict[str, list[float]] = {}
    models = {"champion": (adapted, 0.0, 0), "student": (student, 0.0, 0)}
    models |= {name: (adapted, *noise) for name, noise in NOISES.items()}
    for name, how in models.items():
        bits[name] = score(how[0], texts, *how[1:])
        np.savez(KEPT, bytes=size, groups=groups, names=list(bits), bits=np.array(list(bits.values())))


def newest(store, stage: str) -> Path:
    """The folder of a stage's newest result that holds what is wanted of it."""
    return max((path for path, _ in store.manifests(stage)), key=lambda path: path.stat().st_mtime)


def passages(documents: Path) -> tuple[list[str], np.ndarray]:
    """The first passages of every document of all splits, and the number of the document that each is from."""
    import pandas

    texts: list[str] = []
    groups: list[int] = []
    rows = [
        path for split in ("test", "validation", "train") for path in sorted((documents / split).iterdir())
    ]
    whole = pandas.concat(map(pandas.read_parquet, rows)).text
    for number, text in enumerate(whole):
        content = text.encode()
        # Spread over the document, so that what is alike in them is the document's.
        starts = np.linspace(0, max(len(content) - PASSAGE_BYTES, 0), PASSAGES).astype(int)
        for start in sorted(set(starts.tolist())) if len(content) > 2 * PASSAGE_BYTES else [0]:
            part = content[start : start + PASSAGE_BYTES].decode(errors="ignore").strip()
            if part:
                texts.append(part)
                groups.append(number)
    return texts, np.unique(groups, return_inverse=True)[1]


def score(folder: Path, texts: list[str], noise: float = 0.0, seed: int = 0) -> list[float]:
    """Bits that the model needs for each text."""
    import torch

    from leanpipe.evaluation.perplexity import score_documents
    from leanpipe.models.load import document_start, load_for_inference, load_tokenizer

    folder = next(path.parent for path in sorted(folder.rglob("config.json")))
    model, tokenizer = load_for_inference(folder), load_tokenizer(folder)
    if noise:
        add_noise(model.named_parameters(), noise, seed)
    with torch.inference_mode():
        scores = score_documents(model, tokenizer, texts, document_start(tokenizer), CONTEXT)
    print(f"{folder}, noise {noise}: {sum(one.bits for one in scores):.0f} bits", flush=True)
    return [one.bits for one in scores]


def add_noise(parameters, share: float, seed: int) -> None:
    """Add to each weight so much noise as a share of its tensor's own spread."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, weights in parameters:
            noise = torch.randn(weights.shape, generator=generator)
            weights.add_((share * weights.float().std() * noise).to(weights.dtype))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
