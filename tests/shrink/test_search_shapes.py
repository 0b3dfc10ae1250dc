"""Shapes of one size are compared after they have learnt a little: the table, the winner and what it costs."""

import json
from contextlib import contextmanager

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaModel

from leanpipe.core.errors import UserError
from leanpipe.core.estimate import Expected
from leanpipe.models.count import parameters_of, read_config
from leanpipe.models.load import save_model
from leanpipe.settings.yaml_text import read_yaml
from leanpipe.shrink.budget import BudgetConfig, Shape
from leanpipe.shrink.narrow import Widths
from leanpipe.shrink.search.candidates import Candidate, Scorer, enumerate_shapes, finalists
from leanpipe.shrink.search.search_cost import search_work
from leanpipe.shrink.search.search_shapes import (
    SearchConfig,
    SearchInputs,
    check_search,
    pareto,
    search_shapes,
)
from leanpipe.shrink.shrink import ShrinkConfig
from leanpipe.training.distill.teacher_cache import CacheInputs, CacheSettings, cache_config, cache_teacher
from tests.support.tiny_models import tiny_llama, tiny_tokenizer
from tests.training.blocks import Recorder, tiny_blocks, write_blocks


def candidate(layers: int, channels: int, kl: float, seconds: float = 1.0) -> Candidate:
    return Candidate(Shape(layers, Widths(64, channels, 2)), 1, kl, seconds)


def test_the_best_shape_is_found_after_learning_and_is_told_as_settings(tmp_path):
    torch.set_num_threads(1)
    teacher, blocks, told, out = (tmp_path / name for name in ("teacher", "blocks", "told", "out"))
    save_model(tiny_llama(layers=6), tiny_tokenizer(), teacher, torch.float32)
    write_blocks(blocks)
    told.mkdir()
    out.mkdir()
    asked = cache_config(CacheSettings(), Expected(blocks), 256)
    cache_teacher.function(asked, CacheInputs(teacher, blocks), told, Recorder())
    config = SearchConfig(
        size=0.7,
        depths=3,
        kv_groups=(1,),
        finalists=2,
        tokens=256,
        validation_tokens=64,
        calibration_tokens=64,
    )
    with work_of_models() as done:
        summary = search_shapes.function(config, SearchInputs(teacher, blocks, told), out, Recorder())
    known = read_config(teacher)
    shapes = enumerate_shapes(known, config, config.depths, config.kv_groups)
    expected = search_work(config, known, shapes) - 2 * parameters_of(known) * config.tokens  # of the cache
    assert 0.75 * expected < sum(done) <= expected
    tried = json.loads((out / "shapes.json").read_text())
    assert len(tried) == summary["shapes"] > 2 and all(one["kl"] > 0 for one in tried)
    learnt = [one for one in tried if one["bits_per_byte"]]
    assert len(learnt) == 2 and summary["bits_per_byte"] == min(one["bits_per_byte"] for one in learnt)
    settings = read_yaml((out / "shape.yaml").read_text())["shrink"]
    assert ShrinkConfig(**settings).asked.layers == summary["layers"]
    page = (out / "report" / "shapes.md").read_text()
    assert page.count("\n| ") >= len(tried) and "**" in page
    assert (out / "report" / "shapes.png").exists()


@contextmanager
def work_of_models():
    """What every Llama computes meanwhile, in products with weights: 2 for a token that is read, 6 for one that is learnt."""
    done = []

    def see(module, arguments, made):
        if isinstance(module, LlamaModel):
            learnt = torch.is_grad_enabled() and module.training
            size = sum(one.numel() for one in module.parameters())
            done.append((6 if learnt else 2) * size * made.last_hidden_state[..., 0].numel())

    hook = torch.nn.modules.module.register_module_forward_hook(see)
    try:
        yield done
    finally:
        hook.remove()


def test_a_search_that_would_take_too_long_is_refused_before_any_work():
    """By the defaults it takes less than twice one distillation, of the teacher of the default run; what does not fit is said."""
    teacher = LlamaConfig(
        vocab_size=49_152,
        hidden_size=576,
        intermediate_size=1_536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    known = {"teacher": Expected(facts={"model": teacher})}
    check_search(SearchConfig(), known)
    with pytest.raises(
        UserError, match=r"takes \d\.\d times.*lower search_shapes\.finalists.*max_cost="
    ) as refused:
        check_search(SearchConfig(finalists=5, tokens=40_960), known)
    told = float(str(refused.value).rpartition("max_cost=")[2])
    check_search(SearchConfig(finalists=5, tokens=40_960, max_cost=told), known)
    with pytest.raises(UserError, match=r"max_cost allows 0\.1"):
        check_search(SearchConfig(max_cost=0.1), known)


def test_shapes_of_one_size_are_all_of_that_size():
    config = tiny_llama(layers=10).config
    found = enumerate_shapes(config, BudgetConfig(size=0.6), depths=4, groups=(1,))  # kv_groups
    assert len({one.shape.layers for one in found}) > 2
    assert all(one.parameters <= 0.6 * 402_752 for one in found)
    assert {one.shape.widths.kv_groups for one in found} == {1, 2}


def test_a_model_is_no_way_from_itself(tmp_path):
    model, blocks = tiny_llama(), tiny_blocks(tmp_path)
    scorer = Scorer(model, [blocks[0], blocks[1]])
    assert scorer.kl(model) == pytest.approx(0, abs=1e-6)
    assert scorer.kl(tiny_llama(seed=1)) > 0.001


def test_how_finalists_learn_is_set():
    learned = {"tokens": 64, "learning_rate": 1e-2, "validation_tokens": 32, "seed": 7}
    assert learned.items() <= SearchConfig(**learned).recovery.model_dump().items()


def test_finalists_are_of_different_depths():
    """Two of ten layers are nearest, and only the nearer of them is recovered."""
    all_ = [candidate(10, 64, 1.0), candidate(10, 128, 1.1), candidate(20, 64, 1.5), candidate(30, 64, 1.2)]
    assert [one.shape.layers for one in finalists(all_, 2)] == [10, 30]


def test_pareto_leaves_out_what_is_beaten_in_both():
    fast, near, beaten = candidate(10, 64, 2.0, 1.0), candidate(20, 64, 1.0, 2.0), candidate(30, 64, 2.5, 2.5)
    assert pareto([fast, near, beaten]) == [fast, near]


def test_a_size_that_no_shape_has_is_refused_before_any_work():
    known = {"teacher": Expected(facts={"model": tiny_llama(layers=4).config})}
    with pytest.raises(UserError, match="the nearest, 1 layers"):
        check_search(SearchConfig(size=0.02), known)
