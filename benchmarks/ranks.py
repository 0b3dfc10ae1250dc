"""`python -m benchmarks.ranks [SHARE...]`: how far a student is from itself when its matrices become factors, by how they are chosen.

The default run's student, before it learns anything more, at these shares of its parameters (0.9 and 0.8): by plain SVD, and by
what text carries of each output (SVD-LLM), both with the same share for every matrix; and with the ranks that stage `low_rank`
chooses. Nats per token from the whole student, on 2,048 held-out tokens. The student is the one in LEANPIPE_HOME, of the last run.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from leanpipe.core.home import Home
from leanpipe.models.load import load_model
from leanpipe.shrink.covariance import covariances, factors, output_directions
from leanpipe.shrink.importance import layer_influence
from leanpipe.shrink.ranks import choose_ranks, even_ranks, products_of
from leanpipe.shrink.search.candidates import Scorer
from leanpipe.shrink.teacher_blocks import calibration_blocks
from leanpipe.tokens.blocks import Blocks
from leanpipe.training.trainer.data import evenly_spaced_blocks

HOME = Path(os.environ.get("LEANPIPE_HOME", ".leanpipe"))
CALIBRATION, HELD_OUT = 4_096, 2_048


def newest(stage: str) -> Path:
    """The folder of the stage's last result."""
    return max((Home(HOME).store / stage).iterdir(), key=lambda path: path.stat().st_mtime)


class Factored:
    """A model whose matrices can be replaced by their products of some ranks, and put back."""

    def __init__(self, folder: Path, blocks: Path):
        self.model = load_model(folder, torch.float32)
        text = calibration_blocks(folder, blocks, CALIBRATION)
        self.products = products_of(self.model)
        names = [one.name for one in self.products]
        self.whole = {name: self.model.get_submodule(name).weight.detach().clone() for name in names}
        self.directions, self.squares = {}, {}
        for name, covariance_II in covariances(self.model, names, text):
            found_OK, found_K = output_directions(self.whole[name], covariance_II)
            self.directions[name], self.squares[name] = found_OK.float(), found_K.tolist()
        self.influence_L = layer_influence(self.model, list(self.model.model.layers), text).tolist()
        held_out = evenly_spaced_blocks(Blocks(blocks, "validation"), HELD_OUT)
        self._scorer = Scorer(self.model, held_out)

    def kl(self, ranks: Mapping[str, int], plain: bool = False) -> float:
        """Nats per token from the whole model to one of these ranks."""
        with torch.no_grad():
            for name, rank in ranks.items():
                self.model.get_submodule(name).weight.copy_(self._product(name, rank, plain))
            found = self._scorer.kl(self.model)
            for name in ranks:
                self.model.get_submodule(name).weight.copy_(self.whole[name])
        return found

    def _product(self, name: str, rank: int, plain: bool) -> Any:
        weight_OI = self.whole[name]
        if plain:
            left, sizes, right = torch.linalg.svd(weight_OI, full_matrices=False)
            return (left[:, :rank] * sizes[:rank]) @ right[:rank]
        up_OR, down_RI = factors(weight_OI, self.directions[name], rank)
        return up_OR @ down_RI


def main() -> None:
    made = Factored(newest("distill"), newest("tokenize"))
    parameters = sum(one.numel() for one in made.model.parameters())
    others = parameters - sum(one.dense for one in made.products)
    for share in map(float, sys.argv[1:] or ("0.9", "0.8")):
        weights = int(share * parameters) - others
        most = {one.name: one.most for one in made.products}
        even = {name: rank for name, rank in even_ranks(made.products, weights).items() if rank <= most[name]}
        chosen = choose_ranks(made.products, made.squares, made.influence_L, weights)
        print(
            f"{share:.0%} of the parameters: plain SVD {made.kl(even, plain=True):.3f}, by what text carries "
            f"{made.kl(even):.3f}, of chosen ranks {made.kl(chosen):.3f} nats/token",
            flush=True,
        )


if __name__ == "__main__":
    main()
