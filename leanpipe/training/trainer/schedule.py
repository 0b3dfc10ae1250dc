"""Decide after which steps a training validates, saves and stops, and tell how far it is."""

from collections.abc import Sequence
from typing import Any

from transformers import TrainerCallback

from leanpipe.core.report import Report
from leanpipe.processes.sigterm import DeferredSigterm
from leanpipe.training.trainer.config import TrainingConfig
from leanpipe.training.trainer.speed import SpeedMeter


class Schedule(TrainerCallback):
    """Decides after which steps to validate, to save and to stop, and reports progress."""

    def __init__(
        self,
        config: TrainingConfig,
        meter: SpeedMeter,
        report: Report,
        tokens_per_step: int,
        termination: DeferredSigterm,
    ):
        self._config, self._meter, self._report = config, meter, report
        self._tokens_per_step, self._termination = tokens_per_step, termination

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Report as often as is asked for now: a checkpoint brings what was asked for when it was written."""
        state.logging_steps = args.logging_steps

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the step's time."""
        self._meter.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Decide what follows the step, and report progress."""
        self._meter.stop()
        step, last = state.global_step, state.max_steps
        parts = self._config.validations - 1
        control.should_evaluate = step in {round(part * last / parts) for part in range(1, parts + 1)}
        control.should_log = control.should_log or step == last
        control.should_save = step % self._config.checkpoint_every_steps == 0 and step < last
        self._report.progress(step * self._tokens_per_step, last * self._tokens_per_step, "tokens")
        if self._termination.agreed and step < last:
            control.should_save = True

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop early if there was no better validation for long. What is decided here is decided again if the step is done again, so it is not saved."""
        if not self._config.patience or not state.global_step:
            return
        losses = validations(state.log_history)
        best = best_step(state.log_history)
        if best == state.global_step < state.max_steps:
            control.should_save = True
        if sum(step > best for step in losses) >= self._config.patience:
            control.should_training_stop, control.should_save = True, False

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop after the checkpoint if the process was told to end."""
        if self._termination.agreed:  # only now: the checkpoint would say so, too
            control.should_training_stop = True


def validations(history: Sequence[dict[str, Any]]) -> dict[int, float]:
    """Return the validation losses by step."""
    return {entry["step"]: entry["validation_loss"] for entry in history if "validation_loss" in entry}


def best_step(history: Sequence[dict[str, Any]]) -> int:
    """Return the step with the lowest validation loss, the first of several."""
    losses = validations(history)
    return min(losses, key=lambda step: (losses[step], step), default=0)
