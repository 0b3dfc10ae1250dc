import math

import pytest
import torch
from gguf import GGUFReader
from gguf.quants import dequantize

from leanpipe.compression.gguf_architectures import tensors_of
from leanpipe.compression.quantize import QuantizeConfig, QuantizeInputs, quantize
from leanpipe.core.errors import UserError
from leanpipe.core.estimate import Expected
from leanpipe.engines.gguf_logits import GgufLogits
from leanpipe.models.load import load_model, save_model
from leanpipe.quantization_aware.fake_quantize import fake_quantize
from leanpipe.quantization_aware.quantization_aware import (
    QuantizationAwareConfig,
    QuantizationAwareInputs,
    check_quantization_aware,
    quantization_aware,
)
from leanpipe.quantization_aware.teachers import ByKind, ToldOrNot
from leanpipe.tokens.blocks import Blocks
from leanpipe.training.distill.teacher_cache import CacheInputs, CacheSettings, cache_config, cache_teacher
from leanpipe.training.losses.objectives import CrossEntropy
from leanpipe.training.trainer.data import scored_bytes
from tests.support.tiny_models import tiny_llama, tiny_model, tiny_tokenizer
from tests.training.blocks import Recorder, write_blocks
from tests.training.finetune.test_finetune import write_instructions
from tests.training.test_what_is_kept import saved_nats, validation_of

pytestmark = pytest.mark.usefixtures("one_thread")


def run(tmp_path, model, report=None, teacher_logprobs=None, **settings):
    base = {"tokens": 60 * 128, "batch": 2, "learning_rate": 3e-4, "validation_tokens": 128}
    base |= {"precision": "fp32", "validation_share": 0.2}
    out, report = tmp_path / "out", report or Recorder()
    out.mkdir(parents=True, exist_ok=True)
    blocks = write_blocks(tmp_path / "blocks", length=64)
    told = write_instructions(tmp_path / "colours.jsonl")
    inputs = QuantizationAwareInputs(model, blocks, told, teacher_logprobs)
    config = QuantizationAwareConfig(**{**base, **settings})
    return quantization_aware.function(config, inputs, out, report), out, report


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of random weights that are large: its predictions are sharp, and rounding changes them."""
    whole = tiny_llama()
    with torch.no_grad():
        for weight in whole.parameters():
            weight.mul_(8 if weight.dim() == 2 else 1)
    folder = tmp_path_factory.mktemp("model")
    save_model(whole, tiny_tokenizer(), folder, torch.float32)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory, model):
    return run(tmp_path_factory.mktemp("trained"), model)


def test_a_rounded_model_learns_to_predict_what_it_did_whole(trained):
    summary, out, report = trained
    far = report.series("kl")
    assert summary["tokens"] == 60 * 128 and summary["rounded_layers"] == 14
    assert far[60] < 0.75 * far[1]
    assert (out / "report" / "loss.png").exists()


def test_weights_that_matter_most_lie_nearest_to_the_grid(tmp_path):
    """Where inputs are of different size, as a trained model's are, less is lost before anything is learnt."""
    whole = tiny_llama()
    with torch.no_grad():
        torch.manual_seed(1)
        for name, value in whole.named_parameters():
            value.mul_(torch.randn_like(value).exp() if name.endswith("norm.weight") else 4)
    save_model(whole, tiny_tokenizer(), tmp_path / "model", torch.float32)
    few = {"tokens": 128, "conversations": 1, "learning_rate": 1e-9, "kl_weight": 1, "log_every_steps": 1}
    lost = {}
    for calibration in (0, 1_024):
        _, _, report = run(
            tmp_path / f"{calibration}", tmp_path / "model", calibration_tokens=calibration, **few
        )
        lost[calibration] = report.series("kl")[1]
    assert lost[1_024] < 0.97 * lost[0]


def test_its_q4_0_is_the_grid_it_was_trained_on(trained, tmp_path):
    """Saved in bfloat16 and quantised again: every weight as it was, to the bit."""
    _, out, _ = trained
    folder = as_q4_0(out, tmp_path)
    stored = {one.name: one for one in GGUFReader(folder / "model.gguf").tensors}
    rounded = 0
    for tensor in tensors_of(load_model(out, torch.float32)):
        one = stored[tensor.name]
        values = torch.from_numpy(dequantize(one.data, one.tensor_type).copy()).view(tensor.shape)
        if one.tensor_type.name == "Q4_0":
            assert torch.equal(values, fake_quantize(tensor.read()))
            assert torch.equal(values.bfloat16().float(), tensor.read())
            rounded += 1
    assert rounded == 14


def test_llama_cpp_predicts_what_the_rounded_model_does_in_torch(trained, tmp_path):
    """Bits of held-out text agree to 0.5%."""
    _, out, _ = trained
    engine, torch_ = GgufLogits(as_q4_0(out, tmp_path), 64), load_model(out, torch.float32)
    nats = [0.0, 0.0]
    for block in Blocks(out.parent / "blocks", "validation"):
        tokens = block["input_ids"]
        with torch.no_grad():
            both = engine(tokens.tolist()), torch_(tokens[None]).logits[0]
        for place, logits in enumerate(both):
            nats[place] += float(torch.nn.functional.cross_entropy(logits[:-1], tokens[1:], reduction="sum"))
    assert nats[0] == pytest.approx(nats[1], rel=0.005)


def as_q4_0(model, folder):
    quantize.function(QuantizeConfig(formats=("q4_0",)), QuantizeInputs(model), folder, Recorder())
    return folder / "q4_0"


def test_what_it_reports_is_measured_on_what_it_saved(trained):
    summary, out, _ = trained
    nats, _ = saved_nats(out, validation_of(out.parent / "blocks"))
    size = scored_bytes(validation_of(out.parent / "blocks"), tiny_tokenizer())
    assert summary["bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-6)


@pytest.mark.timeout(120)
def test_a_training_that_was_killed_ends_with_the_same_weights(model, tmp_path):
    """The grid is chosen anew from the model as it was given, and weights go on from the checkpoint."""
    few = {"tokens": 6 * 128, "checkpoint_every_steps": 2}
    _, straight, _ = run(tmp_path / "straight", model, **few)

    class Stop(Exception):
        pass

    class Stopping(Recorder):
        def progress(self, done, total, what):
            if done == 4 * 128:
                raise Stop

    with pytest.raises(Stop):
        run(tmp_path / "stopped", model, Stopping(), **few)
    assert list((tmp_path / "stopped" / "out" / "checkpoints").glob("checkpoint-*"))
    _, resumed, _ = run(tmp_path / "stopped", model, **few)
    names = ("model.safetensors",)
    assert all((straight / name).read_bytes() == (resumed / name).read_bytes() for name in names)


def test_text_is_learnt_from_the_first_teacher_and_conversations_from_the_model_itself(model, tmp_path):
    """Where its predictions were kept; by them a model goes on learning, and its teacher is not loaded again."""
    teacher, kept = tiny_model(tmp_path / "teacher", seed=5), tmp_path / "kept"
    blocks = write_blocks(tmp_path / "blocks", length=64)
    kept.mkdir()
    asked = cache_config(CacheSettings(top_k=32, tail_samples=8), Expected(blocks), 8 * 64)
    cache_teacher.function(asked, CacheInputs(teacher, blocks), kept, Recorder())
    few = {"tokens": 12 * 128, "validations": 2, "log_every_steps": 1}
    far = {}
    for conversations in (0, 1):
        place = tmp_path / f"{conversations}"
        _, _, report = run(place, model, teacher_logprobs=kept, conversations=conversations, **few)
        far[conversations] = report.series("kl")[1]
    # Rounding moves predictions by a tenth of a nat; another model of random weights is further away.
    assert far[1] < 0.3 < 0.6 < far[0]
    _, out, report = run(tmp_path / "both", model, teacher_logprobs=kept, **few)
    assert len(report.series("kl")) == 12 and (out / "model.safetensors").exists()


def test_sums_of_blocks_of_either_kind_are_those_of_each_alone():
    model, (text, answers) = (
        tiny_llama(layers=1),
        [{name: values[None] for name, values in block.items()} for block in two_blocks()],
    )
    both = {name: torch.cat([text[name], answers[name]]) for name in text}
    plain, doubled = CrossEntropy(), lambda *given: {"loss": 2 * CrossEntropy()(*given)["loss"]}
    made = ByKind(plain, doubled)(model, both)["loss"]
    expected = plain(model, text)["loss"] + doubled(model, answers)["loss"]
    torch.testing.assert_close(made, expected)


def two_blocks():
    tokens = torch.arange(3, 19).view(2, 8)
    blocks = [{"input_ids": row, "position_ids": torch.arange(8), "labels": row} for row in tokens]
    return ToldOrNot(blocks[:1], 5, told=True)[0], ToldOrNot(blocks[1:], 5, told=False)[0]


def test_shards_are_refused():
    with pytest.raises(ValueError, match="sharding=full cannot round weights"):
        QuantizationAwareConfig(sharding="full", processes=2, batch=2)


def test_longer_blocks_than_the_model_reads_are_refused_before_any_work(model):
    told = {"model": Expected(model), "blocks": Expected(facts={"block_length": 513})}
    with pytest.raises(UserError, match=r"tokenize\.block_length asks for texts of 513 tokens"):
        check_quantization_aware(QuantizationAwareConfig(), told)
