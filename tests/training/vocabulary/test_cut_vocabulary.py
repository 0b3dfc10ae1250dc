"""The teacher without the tokens that nobody needs: what is left predicts what it predicted."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from leanpipe.core.errors import UserError
from leanpipe.core.report import Silent
from leanpipe.core.stage import Inputs
from leanpipe.core.store import Artifact, Store, external
from leanpipe.models.count import (
    count_parameters,
    parameters_of,
    read_config,
    whole_parameters,
)
from leanpipe.models.load import check_tokenizer, load_model, load_tokenizer, save_model
from leanpipe.models.student import random_student
from leanpipe.processes.run_stage import run_stage
from leanpipe.shrink.budget import AskedShape, BudgetConfig, choose_shape
from leanpipe.training.vocabulary.cut_model import KEPT, keep_rows
from leanpipe.training.vocabulary.cut_tokenizer import read_cut_tokenizer
from leanpipe.training.vocabulary.cut_vocabulary import (
    CutVocabularyConfig,
    choose_tokens,
    cut_vocabulary,
    likely_tokens,
    round_up,
)
from tests.support.cleaned_corpus import kept, write_cleaned
from tests.support.tiny_models import tiny_llama, tiny_text, tiny_tokenizer

VOCABULARY = 2_000
TEXT = tiny_text()[3]


def write_teacher(path: Path, tied: bool = True) -> Path:
    save_model(tiny_llama(vocabulary=VOCABULARY, tied=tied), tiny_tokenizer(VOCABULARY), path, torch.float32)
    return path


def documents(path: Path, *texts: str) -> Artifact:
    rows = [kept(number, text) for number, text in enumerate(texts)]
    return external("clean", write_cleaned(path, rows))


def cut(store: Store, inputs: Inputs, **settings) -> Artifact:
    # A topic is too short to count on, and enough for what is shown here. A teacher that learned nothing expects every token.
    config = CutVocabularyConfig(**{"max_unseen": 1.0, "max_gone": 1.0} | settings)
    return run_stage(
        cut_vocabulary, config, cut_vocabulary.with_earlier_results(store, config, inputs), store, Silent()
    )


@pytest.fixture(scope="module", params=["tied", "untied"])
def made(request, tmp_path_factory):
    """A teacher, and what is left of it."""
    root = tmp_path_factory.mktemp(request.param)
    teacher = external("teacher", write_teacher(root / "teacher", request.param == "tied"))
    inputs = {"teacher": teacher, "documents": documents(root / "documents", TEXT)}
    return teacher.path, cut(Store(root / "store"), inputs)


def test_it_predicts_what_the_teacher_does_among_what_is_left(made):
    teacher, artifact = made
    old = json.loads((artifact.path / KEPT).read_text())
    tokens_T = torch.tensor(load_tokenizer(artifact.path).encode(TEXT)[:100])
    whole_TV = load_model(teacher).double()(input_ids=torch.tensor(old)[tokens_T][None]).logits[0].softmax(-1)
    left_TV = load_model(artifact.path).double()(input_ids=tokens_T[None]).logits[0].softmax(-1)
    among_TV = whole_TV[:, old] / whole_TV[:, old].sum(-1, keepdim=True)
    torch.testing.assert_close(left_TV, among_TV)
    assert abs(whole_TV[:, old].sum(-1).mean().item() - artifact.summary["mass_kept"]) < 0.02


def test_what_two_of_three_tokens_are_given_by_hand():
    """p = (.5, .3, .2); without the last one the others have .5/.8 and .3/.8."""
    model = tiny_llama(vocabulary=3, tied=False)
    with torch.no_grad():
        model.lm_head.weight.zero_()
        hidden_D = model.model(input_ids=torch.tensor([[0]])).last_hidden_state[0, 0]
        for row, probability in enumerate((0.5, 0.3, 0.2)):
            model.lm_head.weight[row] = hidden_D * np.log(probability) / hidden_D.dot(hidden_D)
    predicted = model(input_ids=torch.tensor([[0]])).logits[0, 0].softmax(-1).tolist()
    assert predicted == pytest.approx([0.5, 0.3, 0.2], abs=1e-5)
    keep_rows(model, [0, 1])
    predicted = model(input_ids=torch.tensor([[0]])).logits[0, 0].softmax(-1).tolist()
    assert predicted == pytest.approx([0.625, 0.375], abs=1e-5)


def test_it_is_a_plain_model_folder(made):
    teacher, artifact = made
    check_tokenizer(artifact.path)
    before, after = load_tokenizer(teacher), load_tokenizer(artifact.path)
    config = read_config(artifact.path)
    assert len(after) == config.vocab_size == artifact.summary["tokens_kept"] < len(before)
    assert config.vocab_size % 64 == 0
    for name in ("bos_token", "eos_token", "pad_token", "unk_token", "chat_template"):
        assert getattr(after, name) == getattr(before, name)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert getattr(config, name) == getattr(after, name)
    turn = [{"role": "user", "content": TEXT[:200]}]
    old = json.loads((artifact.path / KEPT).read_text())
    then, now = (
        one.apply_chat_template(turn, add_generation_prompt=True, return_dict=False)
        for one in (before, after)
    )
    assert [old[index] for index in now] == then


def test_sizes_are_shares_of_the_whole_teacher(made):
    teacher, artifact = made
    config, whole = read_config(artifact.path), read_config(teacher)
    assert whole_parameters(config) == parameters_of(whole) > parameters_of(config)
    assert whole_parameters(random_student(config).config) == parameters_of(config)
    # What the vocabulary gave up is left for layers.
    config.num_hidden_layers = whole.num_hidden_layers = 30
    config.uncut_parameters = parameters_of(whole)
    cut, uncut = (choose_shape(one, BudgetConfig(), AskedShape()).layers for one in (config, whole))
    assert cut > uncut


def test_the_share_of_a_gemma_is_exact():
    """Of a model with a large vocabulary and tied embeddings, cut to a tenth."""
    config = Gemma3TextConfig(
        vocab_size=4_000,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=16,
        eos_token_id=[1, 106],
        pad_token_id=0,
    )
    model = Gemma3ForCausalLM(config).eval()
    before = count_parameters(model)
    keep_rows(model, [*range(399), 3_999])
    assert before - count_parameters(model) == 3_600 * 64
    assert model.config.vocab_size == 400 and model.config.eos_token_id == [1, 106]
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_text_that_needs_no_more_uses_an_earlier_vocabulary(tmp_path):
    """So that tokens, the teacher's predictions and a night's retraining go on from what is there."""
    teacher, store = external("teacher", write_teacher(tmp_path / "teacher")), Store(tmp_path / "store")

    def cut_for(name: str, *texts: str) -> Artifact:
        return cut(store, {"teacher": teacher, "documents": documents(tmp_path / name, *texts)})

    first = cut_for("first", TEXT)
    less = cut_for("less", TEXT[:-200])
    assert less.digest == first.digest and less.key != first.key
    more = cut_for("more", TEXT, *tiny_text()[4:30])
    assert more.digest != first.digest and more.summary["tokens_kept"] > first.summary["tokens_kept"]
    assert cut_for("first", TEXT).summary["tokens_kept"] == first.summary["tokens_kept"]


def test_a_corpus_too_small_to_count_on_is_refused(tmp_path):
    """Most of its tokens come up once: it says nothing of what other text needs. Before the teacher is read."""
    teacher = external("teacher", write_teacher(tmp_path / "teacher", True))
    inputs = {"teacher": teacher, "documents": documents(tmp_path / "documents", TEXT[:200])}
    with pytest.raises(UserError, match=r"too small to count a vocabulary on.*set cut_vocabulary\.keep=all"):
        cut(Store(tmp_path / "store"), inputs, max_unseen=CutVocabularyConfig().max_unseen)
    assert cut(Store(tmp_path / "store"), inputs, max_unseen=1.0)


def test_the_chat_template_keeps_its_tokens_whatever_is_cut(tmp_path):
    """With settings that leave nothing of the text, a conversation is written in as many tokens around its words as before."""
    teacher = external("teacher", write_teacher(tmp_path / "teacher", True))
    inputs = {"teacher": teacher, "documents": documents(tmp_path / "documents", TEXT)}
    made = cut(Store(tmp_path / "store"), inputs, min_occurrences=1_000_000, coverage=0.01)
    before, after = load_tokenizer(teacher.path), load_tokenizer(made.path)
    old = json.loads((made.path / KEPT).read_text())
    turns = [{"role": role, "content": ""} for role in ("system", "user", "assistant")]
    then, now = (
        one.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        for one in (before, after)
    )
    assert [old[index] for index in now] == then


def test_unused_tokens_stay_that_the_teacher_expects(made, tmp_path):
    """The fewer of its predictions may go, the more; with none, all. What stays has the share of them that was asked for."""
    teacher, least = made
    inputs = {"teacher": external("teacher", teacher), "documents": documents(tmp_path / "documents", TEXT)}
    some, all_ = (cut(Store(tmp_path / "store"), inputs, max_gone=share) for share in (0.1, 0.0))
    kept = [set(json.loads((one.path / KEPT).read_text())) for one in (least, some, all_)]
    assert kept[0] < kept[1] < kept[2] and len(kept[2]) == VOCABULARY
    assert (
        least.summary["mass_kept"]
        < 0.9
        <= some.summary["mass_kept"]
        < all_.summary["mass_kept"]
        == pytest.approx(1)
    )


def test_likely_tokens_are_chosen():
    predicted, unused = np.array([0.4, 0.3, 0.2, 0.07, 0.03]), np.array([False, True, True, True, True])
    assert likely_tokens(predicted, unused, 1.0) == set()
    assert likely_tokens(predicted, unused, 0.5) == {1}
    assert likely_tokens(predicted, unused, 0.11) == {1, 2}
    assert likely_tokens(10 * predicted, unused, 0.05) == {1, 2, 3}
    assert likely_tokens(predicted, unused, 0.0) == {1, 2, 3, 4}


def test_frequent_tokens_are_chosen():
    counts = np.array([0, 5, 1, 90, 4])
    assert choose_tokens(counts, 1, 1.0) == {1, 2, 3, 4}
    assert choose_tokens(counts, 4, 1.0) == {1, 3, 4}
    assert choose_tokens(counts, 1, 0.95) == {1, 3}
    assert choose_tokens(counts, 1, 0.951) == {1, 3, 4}


def test_their_number_is_a_multiple(tmp_path):
    tokenizer = read_cut_tokenizer(write_teacher(tmp_path / "teacher"))
    counts = np.zeros(VOCABULARY, np.int64)
    for wanted in ({600}, {600, 700}, set(range(300))):
        rounded = round_up(tokenizer, wanted | tokenizer.always(), counts, 64)
        assert len(rounded) % 64 == 0 and wanted <= rounded == tokenizer.with_parts(rounded)
