import json
import shutil

import pytest
import torch

from leanpipe.core import device
from leanpipe.core.errors import UserError
from leanpipe.core.estimate import Expected
from leanpipe.models.load import load_model, load_tokenizer
from leanpipe.shrink.shrink import ShrinkConfig, ShrinkInputs, shrink
from leanpipe.training.distill.distill import DistillConfig, DistillInputs, check_distill, distill
from leanpipe.training.distill.teacher_cache import CacheInputs, CacheSettings, cache_config, cache_teacher
from tests.support.tiny_models import tiny_model
from tests.training.blocks import Recorder, save_blocks, write_blocks


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("teacher"), layers=4)


SHAPE = {"layers": 2, "mlp_channels": 128}


def run(tmp_path, teacher, vocabulary=512, samples=8, shape=None, **settings):
    torch.set_num_threads(1)
    # A teacher with random weights says nothing of the text.
    base = {
        "tokens": 20 * 128,
        "batch": 4,
        "learning_rate": 5e-3,
        "validation_tokens": 128,
        "kl_weight": 0.9,
        "frozen": "none",
    }
    config = DistillConfig(**{**base, **settings})
    blocks = write_blocks(tmp_path / "blocks", vocabulary=vocabulary)
    out, teacher_logprobs = tmp_path / "out", tmp_path / "teacher_logprobs"
    out.mkdir()
    if config.uses_cache:
        teacher_logprobs.mkdir()
        asked = cache_config(CacheSettings(top_k=32, tail_samples=samples), Expected(blocks), config.tokens)
        cache_teacher.function(asked, CacheInputs(teacher, blocks), teacher_logprobs, Recorder())
    begun = tmp_path / "begun"
    begun.mkdir()
    shape = ShrinkConfig(**SHAPE | (shape or {}))
    shrink.function(shape, ShrinkInputs(teacher, blocks), begun, Recorder())
    inputs = DistillInputs(teacher, blocks, teacher_logprobs if config.uses_cache else None, begun)
    return distill.function(config, inputs, out, Recorder()), out


@pytest.mark.parametrize("teacher_logprobs", ["online", "cached"])
def test_a_student_learns_and_is_a_model_folder(tmp_path, teacher, teacher_logprobs):
    summary, out = run(tmp_path, teacher, teacher_logprobs=teacher_logprobs)
    assert summary["bits_per_byte"] < 0.97 * summary["initial_bits_per_byte"]  # a teacher with random weights
    assert summary["layers"] == 2
    assert summary["tokens"] == 20 * 128
    model, tokenizer = load_model(out), load_tokenizer(out)
    assert sum(parameter.numel() for parameter in model.parameters()) == summary["parameters"]
    assert summary["teacher_parameters"] - summary["parameters"] == 2 * 36_992
    assert tokenizer.get_vocab() == load_tokenizer(teacher).get_vocab() and tokenizer.chat_template
    assert (out / "report" / "loss.png").exists()


def test_what_it_writes_names_no_place_and_lets_engines_cache(tmp_path, teacher):
    _, out = run(tmp_path, teacher)
    config = json.loads((out / "config.json").read_text())
    assert config["num_hidden_layers"] == 2 and config["use_cache"] is True
    for file in (*out.glob("*.json"), *out.glob("*.jinja")):
        assert str(tmp_path) not in file.read_text() and str(teacher) not in file.read_text()


@pytest.mark.skipif(device.name() == "cuda", reason="sums on a GPU are in no fixed order")
def test_the_same_settings_write_the_same_weights(tmp_path, teacher):
    files = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        _, out = run(tmp_path / name, teacher, shape={"initialization": "random"}, precision="fp32")
        files.append((out / "model.safetensors").read_bytes())
    assert files[0] == files[1]


@pytest.mark.parametrize("teacher_logprobs", ["online", "cached"])
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jensen_shannon"])
def test_a_student_with_all_layers_has_nothing_to_learn_from_the_teacher(
    tmp_path, teacher, teacher_logprobs, divergence
):
    settings = {"teacher_logprobs": teacher_logprobs, "divergence": divergence}
    summary, _ = run(
        tmp_path,
        teacher,
        shape={"layers": 4},
        kl_weight=1,
        precision="fp32",
        tokens=128,
        samples=0,
        **settings,
    )
    assert summary["final_loss"] == pytest.approx(0, abs=1e-3)
    assert summary["parameters"] == summary["teacher_parameters"]


def test_another_vocabulary_cannot_be_imitated(tmp_path, teacher):
    with pytest.raises(
        UserError, match=r"tokenise with the tokenizer 'teacher', or set distill.kl_weight to 0"
    ):
        run(tmp_path, teacher, vocabulary=400)


def test_predictions_that_were_not_given_are_asked_for(tmp_path, teacher):
    blocks = write_blocks(tmp_path / "blocks")
    with pytest.raises(
        UserError, match=r"run the stage cache_teacher first, or set distill.teacher_logprobs to online"
    ):
        distill.function(DistillConfig(), DistillInputs(teacher, blocks), tmp_path, Recorder())


def test_another_vocabulary_can_be_learnt_from_text_alone(tmp_path, teacher):
    summary, out = run(tmp_path, teacher, vocabulary=400, kl_weight=0)
    assert load_model(out).config.vocab_size == 400 == len(load_tokenizer(out))
    assert summary["bits_per_byte"] < summary["initial_bits_per_byte"]


def test_a_padded_vocabulary_stays_as_it_is(tmp_path, teacher):
    from leanpipe.models.load import save_model

    model = load_model(teacher, torch.float32)
    model.resize_token_embeddings(576)
    padded = tmp_path / "padded"
    save_model(model, load_tokenizer(teacher), padded, torch.float32)
    _, out = run(tmp_path, padded)
    assert load_model(out).config.vocab_size == 576


def test_a_teacher_that_is_none_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"config.json of .* cannot be read"):
        check_distill(DistillConfig(), {"teacher": Expected(tmp_path)})


@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ({"hidden_size": 32, "kv_groups": 1}, {}),
        ({}, {"teacher_logprobs": "online", "hidden_weight": 1.0}),
        ({"hidden_size": 32}, {"teacher_logprobs": "online", "hidden_weight": 1.0}),
        ({"hidden_size": 32, "initialization": "random"}, {}),
    ],
    ids=str,
)
def test_every_kind_of_student_learns(tmp_path, teacher, shape, settings):
    summary, out = run(tmp_path, teacher, shape=shape, **settings)
    assert summary["bits_per_byte"] < 0.99 * summary["initial_bits_per_byte"]
    assert load_model(out).config.hidden_size == shape.get("hidden_size", 64)


def test_without_a_student_a_copy_of_the_teacher_learns(tmp_path, teacher):
    blocks = write_blocks(tmp_path / "blocks")
    out = tmp_path / "out"
    out.mkdir()
    config = DistillConfig(tokens=512, batch=4, kl_weight=0, validation_tokens=128)
    summary = distill.function(config, DistillInputs(teacher, blocks), out, Recorder())
    assert summary["parameters"] == summary["teacher_parameters"] and summary["layers"] == 4


def test_hidden_states_that_no_cache_holds_are_refused():
    with pytest.raises(
        ValueError, match="set teacher_logprobs=online and kl_weight above 0, or hidden_weight=0"
    ):
        DistillConfig(teacher_logprobs="cached", hidden_weight=1.0)


@pytest.mark.parametrize("teacher_logprobs", ["online", "cached"])
def test_a_share_of_the_text_is_what_the_teacher_wrote(tmp_path, teacher, teacher_logprobs):
    """Text that is nothing but the token 7 teaches to say that, all the more the larger its share."""
    config = {
        "tokens": 20 * 128,
        "batch": 4,
        "learning_rate": 5e-3,
        "validation_tokens": 128,
        "kl_weight": 0.1,
    }
    blocks, written, sure = write_blocks(tmp_path / "blocks"), tmp_path / "written", []
    save_blocks(written / "train" / "00000", [[7] * 600], 32, 512)
    shutil.copytree(blocks / "tokenizer", written / "tokenizer")
    for share in (0.0, 0.5):
        asked = DistillConfig(**config, teacher_logprobs=teacher_logprobs, written_share=share)
        assert asked.corpus_tokens + asked.written_tokens == asked.tokens
        paths, out = [], tmp_path / f"{share}"
        for name, source, tokens in (
            ("b", blocks, asked.corpus_tokens),
            ("w", written, asked.written_tokens),
        ):
            paths.append(out / name)
            paths[-1].mkdir(parents=True)
            cached = cache_config(CacheSettings(top_k=32, tail_samples=8), Expected(source), max(1, tokens))
            cache_teacher.function(cached, CacheInputs(teacher, source), paths[-1], Recorder())
        taught = paths if asked.uses_cache else [None, None]
        inputs = DistillInputs(
            teacher,
            blocks,
            taught[0],
            written=written if share else None,
            written_logprobs=taught[1] if share else None,
        )
        distill.function(asked, inputs, out, Recorder())
        with torch.no_grad():
            sure.append(
                float(load_model(out)(torch.tensor([[7, 7, 7]])).logits[0, -1].float().softmax(-1)[7])
            )
    assert sure[1] > 2 * sure[0]


def test_what_the_teacher_did_not_write_is_asked_for(tmp_path, teacher):
    blocks = write_blocks(tmp_path / "blocks")
    with pytest.raises(UserError, match=r"set distill.written_share to 0"):
        config = DistillConfig(written_share=0.5, teacher_logprobs="online")
        distill.function(config, DistillInputs(teacher, blocks), tmp_path, Recorder())
