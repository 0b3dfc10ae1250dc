"""What a form with a grid may hold of weights that were stored in float32, and are compared in bfloat16."""

import pytest
import torch

from leanpipe.evaluation.parity.auto_round_file import Grid
from leanpipe.evaluation.parity.compressed_file import _STEP


@pytest.mark.parametrize("bits", [4, 8])
def test_a_weight_that_bfloat16_moves_across_the_middle_of_two_numbers_is_rounded_rightly(bits):
    """Four of ten clean models in w4a16, those that were saved in float32, had a layer with one such weight and were refused."""
    half = 2.0 ** (bits - 1)
    places = torch.linspace(-half, half - 1, 20_001).repeat(64, 1)
    scales = torch.linspace(0.01, 0.02, 64)[:, None].expand_as(places)
    zeros = torch.full_like(places, half)
    stored = (places * scales).bfloat16().float()
    levels = places.round() + half
    grid = Grid(levels, scales, zeros, bits, _STEP)
    assert torch.equal(grid.admissible(stored), grid.values())
    # A number further is not taken for rightly rounded, but where both are as near.
    further = grid._replace(levels=(levels + 1).clamp(0, 2 * half - 1))
    refused = (further.admissible(stored) != further.values()).float().mean()
    assert refused > (0.9 if bits == 4 else 0.5)
