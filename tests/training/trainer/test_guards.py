"""Trainings that go wrong: they stop with the last good checkpoint named, or go back and leave out what did it."""

import json
import math
from pathlib import Path

import pytest
import torch

from leanpipe.core.errors import UserError
from leanpipe.training.losses.objectives import CrossEntropy
from leanpipe.training.trainer.config import TrainingConfig
from leanpipe.training.trainer.data import ShuffledEpochs, TrainingData
from leanpipe.training.trainer.divergence_guard import Diverged, DivergenceGuard
from leanpipe.training.trainer.trainer import train
from tests.support.tiny_models import tiny_llama
from tests.training.blocks import Recorder, tiny_blocks

STEPS, BATCH, LENGTH = 8, 2, 32


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> TrainingData:
    blocks = tiny_blocks(tmp_path_factory.mktemp("blocks"))
    return TrainingData(blocks, [blocks[0], blocks[1]])


def config(**changes) -> TrainingConfig:
    settings = {
        "tokens": STEPS * BATCH * LENGTH,
        "batch": BATCH,
        "learning_rate": 5e-3,
        "precision": "fp32",
        "checkpoint_every_steps": 2,
        "log_every_steps": 1,
        "validations": 2,
    }
    return TrainingConfig(**{**settings, **changes})


def weights(model) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


class BreaksOn:
    """Cross-entropy, but for one batch, whose loss (or only its gradient) is no number."""

    def __init__(self, block: torch.Tensor, *, gradient: bool = False):
        self._block, self._gradient = block, gradient

    def __call__(self, model, batch):
        sums = CrossEntropy()(model, batch)
        if torch.is_grad_enabled() and any(torch.equal(row.cpu(), self._block) for row in batch["input_ids"]):
            loss = sums["loss"]
            broken = loss + (loss - loss.detach()) * math.inf if self._gradient else loss * math.nan
            return {"loss": broken.nan_to_num(loss.item()) if self._gradient else broken}
        return sums


def block_of_step(text: TrainingData, step: int) -> torch.Tensor:
    """The first block that step `step`, from 1, reads."""
    return ShuffledEpochs(text.train, 10**6, seed=0)[(step - 1) * BATCH]["input_ids"]


def test_it_stops_and_names_the_last_good_checkpoint(tmp_path: Path, text: TrainingData):
    wrong = BreaksOn(block_of_step(text, 6))
    named = r"the loss is nan at step 6; the last good checkpoint is (\S+): lower learning_rate \(now 0.005\).*rewind"
    with pytest.raises(UserError, match=named) as stopped:
        train(tiny_llama(), wrong, text, config(), tmp_path, Recorder())
    assert str(tmp_path / "checkpoints" / "checkpoint-4") in str(stopped.value)
    kept = [path.name for path in (tmp_path / "checkpoints").glob("checkpoint-*")]
    assert sorted(kept) == ["checkpoint-2", "checkpoint-4"]


def test_a_gradient_that_is_no_number_reaches_no_weight(tmp_path: Path, text: TrainingData):
    model = tiny_llama()
    wrong = BreaksOn(block_of_step(text, 6), gradient=True)
    with pytest.raises(UserError, match="the gradient's length is nan at step 6; the last good checkpoint"):
        train(model, wrong, text, config(), tmp_path, Recorder())
    assert weights(model).isfinite().all()


def test_going_back_leaves_out_the_batch_and_reads_the_next(tmp_path: Path, text: TrainingData):
    """The same as a training whose text never had that batch, from the first step on."""
    report, model = Recorder(), tiny_llama()
    wrong, settings = BreaksOn(block_of_step(text, 6)), config(on_divergence="rewind")
    outcome = train(model, wrong, text, settings, tmp_path / "wrong", report)
    assert outcome.rewinds == 1
    assert [done // (BATCH * LENGTH) for done, *_ in report.done] == [1, 2, 3, 4, 5, 5, 6, 7, 8]

    order = ShuffledEpochs(text.train, 10**6, seed=0)
    places = [place for place in range((STEPS + 1) * BATCH) if place // BATCH != 5]

    class Without:
        """The blocks in the order they are read, without the batch; never shuffled anew."""

        def __len__(self):
            return len(places)

        def __getitem__(self, index):
            return order[places[index]]

    class InOrder(Without):
        def __getitem__(self, index):
            return super().__getitem__(place_in_pass.index(index))

    place_in_pass = torch.randperm(len(places), generator=torch.Generator().manual_seed(0)).tolist()
    expected = tiny_llama()
    train(
        expected,
        CrossEntropy(),
        TrainingData(InOrder(), text.validation),
        config(),
        tmp_path / "never",
        Recorder(),
    )
    assert torch.equal(weights(model), weights(expected))


def test_it_goes_back_only_so_often(tmp_path: Path, text: TrainingData):
    def always(model, batch):
        sums = CrossEntropy()(model, batch)
        seen.append(1)
        return {"loss": sums["loss"] * (math.nan if len(seen) > 5 else 1)}

    seen: list[int] = []
    settings = config(on_divergence="rewind", rewinds=2, validations=2)
    with pytest.raises(UserError, match=r"is nan at step \d, after going back 2 times; the last good"):
        train(tiny_llama(), always, text, settings, tmp_path, Recorder())
    assert len(json.loads((tmp_path / "checkpoints" / "skipped.json").read_text())) == 2


def test_an_explosion_is_three_steps_far_above_what_was_usual():
    guard = DivergenceGuard(spike=6)
    for step in range(1, 41):
        guard.check(step, 3 + 0.1 * (step % 2))
    guard.check(41, 9.0)  # an odd batch
    guard.check(42, 3.0)
    guard.check(43, 9.0)
    again = DivergenceGuard(spike=6)
    again.restore(json.loads(json.dumps(guard.state())))
    again.check(44, 9.5)
    with pytest.raises(Diverged, match=r"exploded at step 43: it is 10 at step 45, and was 3.05") as found:
        again.check(45, 10.0)
    assert (found.value.first, found.value.last) == (43, 45)
    quiet = DivergenceGuard(spike=0)
    for step, loss in enumerate([3.0, 3.1] * 20 + [90.0] * 9):
        quiet.check(step, loss)


def test_batches_that_are_skipped_are_replaced_by_later_ones():
    class Numbers:
        def __len__(self):
            return 4

        def __getitem__(self, index):
            return index

    plain, without = (
        ShuffledEpochs(Numbers(), 100, 0, 2),
        ShuffledEpochs(Numbers(), 100, 0, 2, skipped=(1, 2, 4)),
    )
    read = [[plain[2 * batch], plain[2 * batch + 1]] for batch in range(8)]
    assert [[without[2 * step], without[2 * step + 1]] for step in range(4)] == [
        read[batch] for batch in (0, 3, 5, 6)
    ]


def test_patience_stops_early_with_the_best_weights(tmp_path: Path, text: TrainingData):
    """At this learning rate two blocks are soon learnt by heart, and the validation text is another."""
    blocks = text.train
    small = TrainingData([blocks[0], blocks[1]], [blocks[len(blocks) - 1]])
    settings = config(tokens=40 * BATCH * LENGTH, validations=21, patience=3, learning_rate=2e-2)
    report, model = Recorder(), tiny_llama()
    outcome = train(model, CrossEntropy(), small, settings, tmp_path, report)
    losses = report.series("validation_loss")
    best = min(losses, key=losses.get)
    assert best > 0 and max(losses) == best + 3 * 2 < 40
    assert outcome.validation == losses[best] and outcome.tokens == max(losses) * BATCH * LENGTH
    # The weights are those of that step: their loss is that step's.
    assert loss_of(model, small) == pytest.approx(losses[best], rel=1e-5)


def loss_of(model, text: TrainingData) -> float:
    """Nats per scored token of the one validation block, by hand."""
    batch = {name: value[None].to(model.device) for name, value in text.validation[0].items()}
    with torch.no_grad():
        total = float(CrossEntropy()(model.eval(), batch)["loss"])
    return total / int((batch["labels"][:, 1:] != -100).sum())


def test_where_nothing_learnt_is_better_the_first_weights_are_kept(tmp_path: Path, text: TrainingData):
    """At such a learning rate every validation is worse than that of the model as it was given."""
    small = TrainingData(text.train, [text.train[len(text.train) - 1]])
    settings = config(tokens=20 * BATCH * LENGTH, validations=11, patience=3, learning_rate=1.0, spike=0)
    report, model = Recorder(), tiny_llama()
    given = weights(model).clone()
    outcome = train(model, CrossEntropy(), small, settings, tmp_path, report)
    losses = report.series("validation_loss")
    assert max(losses) == 3 * 2 and losses[6] > losses[0] + 1
    assert torch.equal(weights(model), given.to(model.device))
    assert outcome.validation == pytest.approx(loss_of(model, small), rel=1e-5)
    assert outcome.validation == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.parametrize("damaged", ["a step", "the first weights"])
def test_where_the_best_weights_are_damaged_the_loss_of_the_last_is_told(
    tmp_path: Path, text: TrainingData, damaged: str
):
    class Damages(Recorder):
        """Cuts a file of the best weights short once there are worse ones, as a full disk might."""

        def progress(self, done, total, what) -> None:
            super().progress(done, total, what)
            losses = self.series("validation_loss")
            if len(losses) > 2 and (best := min(losses, key=losses.get)) != max(losses):
                name = f"checkpoint-{best}" if best else "initial"
                for file in (tmp_path / "checkpoints" / name).glob("*.safetensors"):
                    file.write_bytes(b"")

    blocks = text.train
    small = TrainingData([blocks[0], blocks[1]], [blocks[len(blocks) - 1]])
    rate = 2e-2 if damaged == "a step" else 1.0
    settings = config(tokens=40 * BATCH * LENGTH, validations=21, patience=3, learning_rate=rate, spike=0)
    report, model = Damages(), tiny_llama()
    outcome = train(model, CrossEntropy(), small, settings, tmp_path, report)
    losses = report.series("validation_loss")
    assert (min(losses, key=losses.get) > 0) == (damaged == "a step")
    assert outcome.validation == losses[max(losses)] > min(losses.values())
    assert outcome.validation == pytest.approx(loss_of(model, small), rel=1e-5)
