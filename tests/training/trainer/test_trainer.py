import math
import os
from pathlib import Path

import pytest
import torch

from leanpipe.core import device
from leanpipe.core.errors import UserError
from leanpipe.training.distill.distillation_objectives import Distillation
from leanpipe.training.losses.divergences import DistillationLoss
from leanpipe.training.losses.objectives import CrossEntropy
from leanpipe.training.trainer.config import TrainingConfig
from leanpipe.training.trainer.data import TrainingData, scored_tokens
from leanpipe.training.trainer.trainer import steps_of, train
from tests.support.tiny_models import tiny_llama
from tests.training.blocks import Recorder, tiny_blocks

pytestmark = pytest.mark.usefixtures("one_thread")


def config(**changes) -> TrainingConfig:
    """Eight steps of four blocks of 32 tokens."""
    settings = {
        "tokens": 8 * 4 * 32,
        "learning_rate": 5e-3,
        "precision": "fp32",
        "validation_tokens": 64,
        **changes,
    }
    return TrainingConfig(**settings)


@pytest.fixture
def text(tmp_path) -> TrainingData:
    blocks = tiny_blocks(tmp_path / "blocks")
    return TrainingData(blocks, [blocks[0], blocks[1]])


def weights(model) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_documents_in_a_block_do_not_see_each_other():
    """Two documents of four tokens: the second one's states stay the same when the first one changes, in each row."""
    model = tiny_llama()
    tokens = torch.randint(3, 500, (2, 8), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[:, :4] += 7
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3]] * 2)
    logits = [
        model(input_ids=ids, position_ids=positions, use_cache=False).logits for ids in (tokens, changed)
    ]
    torch.testing.assert_close(logits[0][:, 4:], logits[1][:, 4:])
    assert (logits[0][:, :4] - logits[1][:, :4]).abs().max() > 0.01
    alone = model(input_ids=tokens[:, 4:]).logits
    torch.testing.assert_close(logits[0][:, 4:], alone)


def test_the_loss_of_a_block_is_that_of_its_documents_alone():
    model, generator = tiny_llama(), torch.Generator().manual_seed(0)
    first, second = (torch.randint(3, 500, (5,), generator=generator) for _ in range(2))
    labels = torch.cat([first, second])
    labels[[0, 5]] = -100
    batch = {
        "input_ids": torch.cat([first, second])[None],
        "position_ids": torch.tensor([[0, 1, 2, 3, 4] * 2]),
        "labels": labels[None],
    }
    alone = sum(model(input_ids=ids[None], labels=ids[None]).loss * 4 for ids in (first, second))
    torch.testing.assert_close(CrossEntropy()(model, batch)["loss"], alone)


def test_it_overfits_a_tiny_text(tmp_path, text):
    report = Recorder()
    small = TrainingData([text.train[0], text.train[1]], text.validation)
    outcome = train(
        tiny_llama(), CrossEntropy(), small, config(tokens=40 * 128, weight_decay=0), tmp_path, report
    )
    assert outcome.initial_validation == pytest.approx(math.log(512), abs=0.3)  # random weights know nothing
    assert outcome.validation < 0.5 * outcome.initial_validation
    assert outcome.loss == pytest.approx(outcome.validation, abs=0.5)
    assert outcome.tokens == 40 * 128


def test_what_it_reports(tmp_path, text):
    report = Recorder()
    teacher = tiny_llama(seed=1).to(device.name())
    objective = Distillation(teacher, DistillationLoss(temperature=2.0, kl_weight=0.25))
    train(tiny_llama(), objective, text, config(log_every_steps=3, validations=3), tmp_path, report)
    assert list(report.series("validation_loss")) == [0, 4, 8]
    assert list(report.series("learning_rate")) == [1, 3, 6, 8]
    for name in ("grad_norm", "tokens_per_second", "mfu", "peak_memory_bytes"):
        assert list(report.series(name)) == [1, 3, 6, 8] and min(report.series(name).values()) > 0
    assert set(report.series("micro_batch").values()) == {4}
    for step, loss in report.series("loss").items():
        kl, entropy = report.series("kl")[step], report.series("cross_entropy")[step]
        assert loss == pytest.approx(0.75 * entropy + 0.25 * kl, rel=1e-4)
    assert report.done[-1] == (1024, 1024, "tokens") and len(report.done) == 8
    assert (tmp_path / "report" / "loss.png").stat().st_size > 1000


def test_validation_loss_is_the_mean_over_scored_tokens(tmp_path, text):
    model, report = tiny_llama(), Recorder()
    with torch.no_grad():
        sums = sum(
            float(CrossEntropy()(model, {name: value[None] for name, value in block.items()})["loss"])
            for block in text.validation
        )
    train(model, CrossEntropy(), text, config(micro_batch=1), tmp_path, report)
    assert report.series("validation_loss")[0] == pytest.approx(
        sums / scored_tokens(text.validation), rel=1e-5
    )


def test_micro_batches_change_nothing(tmp_path, text):
    losses, trained = [], []
    for micro_batch in (1, 4):
        model, report = tiny_llama(), Recorder()
        settings = config(micro_batch=micro_batch, log_every_steps=1)
        train(model, CrossEntropy(), text, settings, tmp_path / str(micro_batch), report)
        losses.append(list(report.series("loss").values()))
        trained.append(weights(model))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    torch.testing.assert_close(trained[0], trained[1], rtol=1e-3, atol=1e-4)


def test_gradient_checkpointing_changes_nothing(tmp_path, text):
    trained = []
    for checkpointing in (False, True):
        model = tiny_llama()
        settings = config(gradient_checkpointing=checkpointing)
        train(model, CrossEntropy(), text, settings, tmp_path / str(checkpointing), Recorder())
        trained.append(weights(model))
    torch.testing.assert_close(*trained)


@pytest.mark.parametrize("optimizer", ["adamw_8bit", "adafactor", "muon"])
@pytest.mark.parametrize("schedule", ["wsd", "constant", "linear"])
def test_optimizers_and_schedules_learn(tmp_path, text, optimizer, schedule):
    report = Recorder()
    settings = config(optimizer=optimizer, schedule=schedule, log_every_steps=1)
    outcome = train(tiny_llama(), CrossEntropy(), text, settings, tmp_path, report)
    assert outcome.validation < outcome.initial_validation
    rates = list(report.series("learning_rate").values())
    assert max(rates) <= 5e-3
    assert rates[-1] == pytest.approx(5e-3) if schedule == "constant" else rates[-1] < 4e-3


def test_muon_turns_matrices_and_leaves_the_rest_to_adamw(tmp_path, text):
    """In one step from nothing embeddings and norms move as by AdamW; a matrix by equal singular values."""
    moved = {}
    for optimizer in ("muon", "adamw"):
        model = tiny_llama()
        before = {name: weight.detach().cpu().clone() for name, weight in model.named_parameters()}
        settings = config(tokens=1, optimizer=optimizer, weight_decay=0, warmup=0, schedule="constant")
        train(model, CrossEntropy(), text, settings, tmp_path / optimizer, Recorder())
        moved[optimizer] = {
            name: weight.detach().cpu() - before[name] for name, weight in model.named_parameters()
        }
    for name in ("model.embed_tokens.weight", "model.norm.weight"):
        torch.testing.assert_close(moved["muon"][name], moved["adamw"][name], rtol=1e-3, atol=1e-6)
    update = moved["muon"]["model.layers.0.self_attn.q_proj.weight"]
    values = torch.linalg.svdvals(update) / (0.2 * 5e-3 * 64**0.5)  # of the size of AdamW's
    assert values.quantile(0.2) > 0.5 and values.max() < 1.5


def test_bf16_keeps_weights_in_float32(tmp_path, text):
    model = tiny_llama()
    outcome = train(model, CrossEntropy(), text, config(precision="bf16"), tmp_path, Recorder())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert outcome.validation < outcome.initial_validation
    assert (weights(model) != weights(model).bfloat16().float()).any()


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path, text):
    model = tiny_llama()
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(
        UserError, match="loss on validation text is nan before training: the model's weights"
    ):
        train(model, CrossEntropy(), text, config(), tmp_path, Recorder())


def test_a_training_that_diverges_stops(tmp_path, text):
    def explodes(model, batch):
        sums = CrossEntropy()(model, batch)
        return {"loss": sums["loss"] * float("inf")}

    stops = r"the loss is inf at step 1; there is no checkpoint before it: lower learning_rate \(now 0.005\)"
    with pytest.raises(UserError, match=stops):
        train(tiny_llama(), explodes, text, config(), tmp_path, Recorder())


def test_a_model_that_scales_its_logits_is_refused(tmp_path, text):
    from transformers import GraniteConfig, GraniteForCausalLM

    sizes = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "initializer_range": 0.5}
    model = GraniteForCausalLM(GraniteConfig(**sizes, **heads, logits_scaling=8.0))
    with pytest.raises(UserError, match="models of type granite scale or cap their logits"):
        train(model, CrossEntropy(), text, config(), tmp_path, Recorder())


class Interrupt(Exception):
    pass


class InterruptAt(Recorder):
    """A report that fails once `tokens` are done, as a full disk or a lost server might."""

    def __init__(self, tokens: int):
        super().__init__()
        self._tokens = tokens

    def progress(self, done, total, what) -> None:
        super().progress(done, total, what)
        if done == self._tokens:
            raise Interrupt


def test_an_interrupted_training_ends_as_if_it_had_not_been(tmp_path, text):
    settings = config(checkpoint_every_steps=2, log_every_steps=1)
    whole, resumed, first, second = tiny_llama(), tiny_llama(), InterruptAt(5 * 128), Recorder()
    expected = train(whole, CrossEntropy(), text, settings, tmp_path / "whole", Recorder())
    with pytest.raises(Interrupt):
        train(resumed, CrossEntropy(), text, settings, tmp_path / "cut", first)
    checkpoints = (tmp_path / "cut" / "checkpoints").glob("checkpoint-*")
    assert sorted(path.name for path in checkpoints) == ["checkpoint-2", "checkpoint-4"]
    again = tiny_llama(seed=9)  # its weights come from the checkpoint
    outcome = train(again, CrossEntropy(), text, settings, tmp_path / "cut", second)
    assert second.done[0] == (5 * 128, 8 * 128, "tokens")
    assert torch.equal(weights(again), weights(whole))
    assert outcome.initial_validation == expected.initial_validation
    assert outcome.validation == expected.validation
    assert list(second.series("loss")) == [5, 6, 7, 8]


def damage(checkpoint: Path, how: str) -> None:
    if how == "cut short":
        os.truncate(checkpoint / "optimizer.pt", 1000)
    elif how == "unsealed":
        (checkpoint / "whole.json").unlink()
    elif how == "a file missing":
        (checkpoint / "rng_state.pth").unlink()
    else:
        weights = checkpoint / "model.safetensors"
        data = bytearray(weights.read_bytes())
        data[len(data) // 2] ^= 1
        weights.write_bytes(data)


@pytest.mark.parametrize("how", ["cut short", "unsealed", "a file missing", "a bit turned over"])
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(tmp_path, text, how):
    settings = config(checkpoint_every_steps=2)
    with pytest.raises(Interrupt):
        train(tiny_llama(), CrossEntropy(), text, settings, tmp_path, InterruptAt(5 * 128))
    damage(tmp_path / "checkpoints" / "checkpoint-4", how)
    whole, again, report = tiny_llama(), tiny_llama(), Recorder()
    train(again, CrossEntropy(), text, settings, tmp_path, report)
    assert report.done[0] == (3 * 128, 1024, "tokens")
    train(whole, CrossEntropy(), text, settings, tmp_path / "whole", Recorder())
    assert torch.equal(weights(again), weights(whole))


def test_without_a_whole_checkpoint_it_begins_anew(tmp_path, text):
    settings = config(checkpoint_every_steps=2)
    with pytest.raises(Interrupt):
        train(tiny_llama(), CrossEntropy(), text, settings, tmp_path, InterruptAt(5 * 128))
    for checkpoint in (tmp_path / "checkpoints").glob("checkpoint-*"):
        damage(checkpoint, "cut short")
    report = Recorder()
    train(tiny_llama(), CrossEntropy(), text, settings, tmp_path, report)
    assert report.done[0] == (128, 1024, "tokens")


def test_a_report_after_a_resume_covers_the_steps_before_it_too(tmp_path, text):
    """The checkpoint lies between two reports: the second one's loss is the mean over the same steps as without it."""
    settings, whole, cut = config(checkpoint_every_steps=2, log_every_steps=3), Recorder(), Recorder()
    train(tiny_llama(), CrossEntropy(), text, settings, tmp_path / "whole", whole)
    with pytest.raises(Interrupt):
        train(tiny_llama(), CrossEntropy(), text, settings, tmp_path / "cut", InterruptAt(5 * 128))
    train(tiny_llama(), CrossEntropy(), text, settings, tmp_path / "cut", cut)
    assert cut.series("loss") == {step: loss for step, loss in whole.series("loss").items() if step > 4}


@pytest.mark.parametrize(("tokens", "steps"), [(1, 1), (128, 1), (129, 2), (1024, 8)])
def test_steps_make_at_least_the_tokens(tokens, steps):
    assert steps_of(config(tokens=tokens), block=32) == steps
