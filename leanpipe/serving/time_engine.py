"""The process that times one way to run a model's engine: `python -m leanpipe.serving.time_engine FOLDER WAY` prints
the tokens that it writes a second, the reading of the prompt counted in."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from leanpipe.models.offload import is_exported
from leanpipe.serving.engine_choice import READ, WRITTEN, Way

_PROMPT, _REPEATS = tuple(number % 200 + 3 for number in range(READ)), 3


def main() -> None:
    """Load the model, answer a prompt several times, and print the best speed: what disturbs only ever slows down."""
    folder, way = Path(sys.argv[1]), Way(*json.loads(sys.argv[2]))
    write = _exported(folder, way) if is_exported(folder) else _transformers(folder, way)
    write()
    seconds = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        write()
        seconds.append(time.perf_counter() - started)
    print(WRITTEN / min(seconds), flush=True)


def _exported(folder: Path, way: Way) -> Callable[[], object]:
    from leanpipe.engines.open_engine import open_engine

    engine = open_engine(folder, READ + 2 * WRITTEN, 1, way.threads, way.gguf)
    asked = {"prompt": list(_PROMPT), "max_tokens": WRITTEN, "temperature": 0.0, "ignore_eos": True}
    asked["cache_prompt"] = False  # it is read anew each time
    return lambda: engine.complete(asked)


def _transformers(folder: Path, way: Way) -> Callable[[], object]:
    import torch

    from leanpipe.core import device
    from leanpipe.models.load import load_model

    model = load_model(folder, device.dtype_of(way.arithmetic or "fp32"))
    prompt = torch.tensor([_PROMPT], device=model.device)
    length = {"max_new_tokens": WRITTEN, "min_new_tokens": WRITTEN, "do_sample": False}
    return lambda: model.generate(prompt, attention_mask=torch.ones_like(prompt), **length)


if __name__ == "__main__":
    main()
