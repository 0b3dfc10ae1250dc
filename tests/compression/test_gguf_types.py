"""Weights in GGUF's types: read back by gguf's own code, nearer than what it or llama.cpp rounds to, where it counts."""

import numpy as np
import pytest
import torch

from benchmarks.compression_budget import error, theirs
from leanpipe.compression.gguf_types import (
    IN_ITS_PLACE,
    bytes_of_weights,
    rounded_weights,
    sizes_of,
    stored_type,
)

TYPES = ("q8_0", "q6_k", "q5_1", "q5_k", "q5_0", "q4_1", "q4_k", "iq4_nl", "q4_0")


@pytest.fixture(scope="module")
def weights():
    """Rows of different sizes with a few large weights, as a trained layer has them."""
    made = torch.Generator().manual_seed(0)
    values = torch.randn(64, 512, generator=made) * torch.rand(64, 1, generator=made)
    return values + 4 * values * (torch.rand(values.shape, generator=made) > 0.995)


@pytest.fixture(scope="module")
def importance():
    return torch.randn(512, generator=torch.Generator().manual_seed(1)).square() + 0.01


@pytest.mark.parametrize("kind", TYPES)
def test_weights_are_as_large_and_as_near_as_their_type_promises(kind, weights):
    block, size = sizes_of(kind)
    data = bytes_of_weights(weights, kind)
    assert data.shape == (64, 512 // block * size) and data.dtype == np.uint8
    bits = 8 * size / block
    lost = (error(weights, rounded_weights(weights, kind)) / error(weights, 0 * weights)) ** 0.5
    assert lost < 3 * 2.0**-bits
    zeros = torch.zeros(2, 256)
    assert torch.equal(rounded_weights(zeros, kind), zeros)


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind != "q8_0"])
def test_no_weights_are_rounded_worse_than_llama_cpp_does_where_it_counts(kind, weights, importance):
    ours = error(weights, rounded_weights(weights, kind, importance), importance)
    assert ours < 1.02 * error(weights, theirs(weights, kind, importance), importance)
    assert ours < error(weights, rounded_weights(weights, kind), importance)


def test_rows_that_a_type_does_not_fit_get_another_of_as_many_bits():
    assert [stored_type(kind, 576) for kind in ("q6_k", "q5_k", "q4_k", "q4_0")] == [
        "q8_0",
        "q5_0",
        "iq4_nl",
        "q4_0",
    ]
    assert stored_type("q4_k", 1536) == "q4_k" and stored_type("q4_k", 100) == "bf16"
    for kind in ("q5_k", "q4_k"):
        (block, size), (other, bytes_) = sizes_of(kind), sizes_of(IN_ITS_PLACE[kind])
        assert size / block == bytes_ / other
