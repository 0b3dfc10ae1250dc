"""Each pattern against one dense mask that is written down token by token."""

import math

import pytest
import torch

from leanpipe.models.attention import sparse_attention as attention
from leanpipe.models.attention import sparse_layout
from leanpipe.models.attention.attention_patterns import AttentionConfig
from leanpipe.models.build import Shape, decoder_config, random_decoder
from leanpipe.models.load import load_model, save_model
from tests.support.tiny_models import tiny_tokenizer

PATTERNS = {
    "sliding_window": AttentionConfig(pattern="sliding_window", window=7),
    "wide window": AttentionConfig(pattern="sliding_window", window=500),
    "longformer": AttentionConfig(pattern="longformer", window=6, global_tokens=3),
    "bigbird": AttentionConfig(pattern="bigbird", window=9, global_tokens=2, random_blocks=2, block=4),
    "bigbird, large blocks": AttentionConfig(
        pattern="bigbird", window=5, global_tokens=1, random_blocks=3, block=8
    ),
    "reformer": AttentionConfig(pattern="reformer", window=5, buckets=4),
    "reformer, all of a bucket": AttentionConfig(pattern="reformer", window=500, buckets=4),
}
every_pattern = pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS.keys())
LENGTHS = {"packed": (40, 1, 3, 27), "alone": (71,), "short": (2, 1)}
LAYER = 1


pytestmark = pytest.mark.usefixtures("one_thread")


class Layer(torch.nn.Module):
    """What the attention function is told of the layer that calls it."""

    def __init__(self, pattern: AttentionConfig):
        super().__init__()
        self.config = decoder_config("llama", Shape(2, 16, 4, 2, 32, 128, True), pattern, 300)
        self.layer_idx = LAYER


def draw(length: int, heads: int = 4, kv_heads: int = 2, batch: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(batch, count, length, 8, generator=generator).requires_grad_()
        for count in (heads, kv_heads, kv_heads)
    ]


def positions_of(lengths: tuple[int, ...]) -> torch.Tensor:
    return torch.cat([torch.arange(length) for length in lengths])


def dense_mask(pattern: AttentionConfig, lengths: tuple[int, ...], key_BKTD: torch.Tensor) -> torch.Tensor:
    """(B, K, T, T), by the definition of each pattern, one pair of tokens after the other."""
    batch, heads, length, _ = key_BKTD.shape
    positions = positions_of(lengths).tolist()
    document = [number for number, size in enumerate(lengths) for _ in range(size)]
    options = sparse_layout.Options(pattern, LAYER, 0.0, None)
    buckets = attention._buckets(key_BKTD, options).tolist()
    table = sparse_layout.random_blocks(options, length, torch.device("cpu"))
    mask = torch.zeros(batch, heads, length, length, dtype=torch.bool)
    for b in range(batch):
        for h in range(heads):
            for i in range(length):
                found = 0
                for j in range(i, -1, -1):
                    if document[i] != document[j]:
                        continue
                    if pattern.pattern == "reformer":
                        same = buckets[b][h][i] == buckets[b][h][j]
                        found += same
                        mask[b, h, i, j] = same and found <= pattern.window
                        continue
                    mask[b, h, i, j] = (
                        i - j < pattern.window
                        or (pattern.pattern != "sliding_window" and positions[j] < pattern.global_tokens)
                        or (
                            table is not None
                            and positions[j] // pattern.block in table[positions[i] // pattern.block].tolist()
                        )
                    )
    return mask


@every_pattern
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
def test_the_result_and_its_gradients_are_those_of_a_dense_mask(pattern, lengths):
    query, key, value = draw(sum(lengths))
    positions = positions_of(lengths)[None].expand(2, -1).contiguous()
    ours, _ = attention.sparse_attention_forward(
        Layer(pattern), query, key, value, None, position_ids=positions
    )
    mask = dense_mask(pattern, lengths, key.detach()).repeat_interleave(2, 1)
    scores = query @ key.repeat_interleave(2, 1).transpose(-1, -2) / math.sqrt(8)
    weights = scores.masked_fill(~mask, -math.inf).softmax(-1)
    dense = (weights @ value.repeat_interleave(2, 1)).transpose(1, 2)
    torch.testing.assert_close(ours, dense)
    upstream = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    gradients = [torch.autograd.grad(result, (query, key, value), upstream) for result in (ours, dense)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@every_pattern
def test_the_rows_of_a_batch_may_be_packed_differently(pattern):
    query, key, value = draw(64)
    rows = (30, 34), (5, 50, 9)
    both = torch.stack([positions_of(row) for row in rows])
    together, _ = attention.sparse_attention_forward(
        Layer(pattern), query, key, value, None, position_ids=both
    )
    for number, row in enumerate(rows):
        one = [tensor[number : number + 1] for tensor in (query, key, value)]
        alone, _ = attention.sparse_attention_forward(
            Layer(pattern), *one, None, position_ids=positions_of(row)[None]
        )
        torch.testing.assert_close(together[number], alone[0])


def test_random_blocks_are_distinct_and_lie_before_the_window():
    table = sparse_layout.drawn_blocks(0, 3, 64, 3, 4, 9)
    for number, drawn in enumerate(table.tolist()):
        chosen = [block for block in drawn if block >= 0]
        assert len(set(chosen)) == len(chosen) == min(3, max(0, (4 * number - 8) // 4))
        assert all(4 * block + 3 < 4 * number - 8 for block in chosen)
    assert table[:32].equal(sparse_layout.drawn_blocks(0, 3, 32, 3, 4, 9))  # whatever comes later
    assert not table.equal(sparse_layout.drawn_blocks(0, 4, 64, 3, 4, 9))
    assert not table.equal(sparse_layout.drawn_blocks(1, 3, 64, 3, 4, 9))


def decoder(pattern: AttentionConfig, architecture="llama"):
    shape = Shape(2, 64, 4, 4 if architecture == "gpt2" else 2, 128, 256, True)
    model = random_decoder(decoder_config(architecture, shape, pattern, 512, tiny_tokenizer()), 0).eval()
    for parameter in model.parameters():  # else every token attends to all alike
        parameter.data.mul_(3) if parameter.ndim > 1 else None
    return model


def tokens(batch: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, 500, (batch, length), generator=torch.Generator().manual_seed(seed))


@every_pattern
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_packed_documents_are_computed_as_if_alone(pattern, architecture):
    model = decoder(pattern, architecture)
    first, second = tokens(1, 33), tokens(1, 50, 1)
    row, positions = torch.cat([first, second], 1), positions_of((33, 50))[None]
    with torch.no_grad():
        packed = model(input_ids=row, position_ids=positions, use_cache=False).logits
        alone = [model(input_ids=one, use_cache=False).logits for one in (first, second)]
    torch.testing.assert_close(packed, torch.cat(alone, 1), rtol=1e-4, atol=1e-4)


@every_pattern
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_no_token_sees_those_that_come_after_it(pattern, architecture):
    model, row = decoder(pattern, architecture), tokens(1, 60)
    changed = row.clone()
    changed[:, 41:] += 5
    with torch.no_grad():
        one, other = (model(input_ids=ids, use_cache=False).logits for ids in (row, changed))
    torch.testing.assert_close(one[:, :41], other[:, :41], rtol=1e-4, atol=1e-4)
    assert (one[:, 41:] - other[:, 41:]).abs().max() > 0.01


@every_pattern
def test_tokens_one_by_one_from_the_cache_are_those_of_a_whole_pass(pattern):
    model, row = decoder(pattern), tokens(2, 50)
    with torch.no_grad():
        whole = model(input_ids=row, use_cache=False).logits
        state = model(input_ids=row[:, :30], use_cache=True)
        logits = [state.logits]
        for place in range(30, 50, 2):
            state = model(
                input_ids=row[:, place : place + 2], past_key_values=state.past_key_values, use_cache=True
            )
            logits.append(state.logits)
    torch.testing.assert_close(torch.cat(logits, 1), whole, rtol=1e-4, atol=1e-4)


@every_pattern
def test_padding_in_front_changes_no_answer(pattern):
    model, prompt = decoder(pattern), tokens(1, 20)
    padded = torch.cat([torch.full((1, 6), 2), prompt], 1)
    mask = torch.cat([torch.zeros(1, 6), torch.ones(1, 20)], 1).long()
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    alone = model.generate(prompt, **options)[:, 20:]
    beside = model.generate(padded, attention_mask=mask, **options)[:, 26:]
    assert alone.tolist() == beside.tolist()


@every_pattern
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_our_loader_applies_the_pattern_that_the_folder_names(pattern, architecture, tmp_path):
    model, row = decoder(pattern, architecture), tokens(1, 60)
    save_model(model, tiny_tokenizer(), tmp_path, torch.float32)
    loaded = load_model(tmp_path, torch.float32)
    assert loaded.config._attn_implementation == attention.NAME
    with torch.no_grad():
        there = loaded(input_ids=row.to(loaded.device)).logits.cpu()
        torch.testing.assert_close(there, model(input_ids=row).logits, rtol=1e-4, atol=1e-4)


def test_a_sliding_window_is_a_mistral_that_plain_transformers_computes_alike(tmp_path):
    from transformers import AutoModelForCausalLM, MistralForCausalLM

    model, row = decoder(PATTERNS["sliding_window"]), tokens(2, 60)
    positions = positions_of((25, 35))[None].expand(2, -1)
    save_model(model, tiny_tokenizer(), tmp_path, torch.float32)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert isinstance(plain, MistralForCausalLM) and plain.config._attn_implementation == "sdpa"
    with torch.no_grad():
        for inputs in ({}, {"position_ids": positions}):
            ours, theirs = (one(input_ids=row, use_cache=False, **inputs).logits for one in (model, plain))
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    options = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": None}
    assert model.generate(row[:1], **options).tolist() == plain.generate(row[:1], **options).tolist()


def test_an_engine_that_does_not_know_the_pattern_attends_to_everything(tmp_path):
    """Same weights: within the window nothing changes, beyond it everything may."""
    from transformers import AutoModelForCausalLM

    pattern = PATTERNS["longformer"]
    model, row = decoder(pattern), tokens(1, 60)
    save_model(model, tiny_tokenizer(), tmp_path, torch.float32)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    with torch.no_grad():
        ours, theirs = model(input_ids=row).logits, plain(input_ids=row).logits
    torch.testing.assert_close(ours[:, : pattern.window], theirs[:, : pattern.window], rtol=1e-4, atol=1e-4)
    assert (ours[:, -1] - theirs[:, -1]).abs().max() > 0.01


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@every_pattern
def test_a_gpu_computes_the_same(pattern):
    query, key, value = draw(71)
    positions = positions_of((40, 1, 30))[None].expand(2, -1).contiguous()
    here, _ = attention.sparse_attention_forward(
        Layer(pattern), query, key, value, None, position_ids=positions
    )
    moved = [tensor.detach().cuda() for tensor in (query, key, value)]
    there, _ = attention.sparse_attention_forward(Layer(pattern), *moved, None, position_ids=positions.cuda())
    torch.testing.assert_close(there.cpu(), here, rtol=1e-4, atol=1e-4)
