"""Go back to a checkpoint, and leave out the batches that a training diverged on."""

import json
import logging
from pathlib import Path

from leanpipe.core.errors import UserError
from leanpipe.core.files import write_text
from leanpipe.training.trainer import checkpoints
from leanpipe.training.trainer.config import TrainingConfig
from leanpipe.training.trainer.data import ShuffledEpochs
from leanpipe.training.trainer.divergence_guard import Diverged

log = logging.getLogger(__name__)


class Rewinds:
    """Remembers which batches are left out, kept beside the checkpoints in `folder`, so that a killed training knows them again."""

    def __init__(self, folder: Path, config: TrainingConfig):
        self._folder, self._config = folder, config
        self._file = folder / "skipped.json"
        self._skipped: list[list[int]] = json.loads(self._file.read_text()) if self._file.exists() else []

    @property
    def count(self) -> int:
        """How many times the training went back."""
        return len(self._skipped)

    @property
    def batches(self) -> list[int]:
        """Numbers of the batches that are left out, from 0."""
        return sorted(number for numbers in self._skipped for number in numbers)

    def add(self, diverged: Diverged, passes: ShuffledEpochs) -> None:
        """Make the next attempt go back to the checkpoint before and leave out the batches of the bad steps.

        Raises UserError where the training may not go back, naming the last good checkpoint.
        """
        good = checkpoints.find_whole(self._folder, before=diverged.first)
        if self._config.on_divergence == "stop" or good is None or self.count >= self._config.rewinds:
            raise UserError(self._sentence(diverged, good))
        steps = range(diverged.first - 1, diverged.last)
        self._skipped.append([passes.batch_of(step) for step in steps])
        write_text(self._file, json.dumps(self._skipped))
        log.warning("%s: back to %s, without the batches %s", diverged.what, good.name, self._skipped[-1])

    def _sentence(self, diverged: Diverged, good: Path | None) -> str:
        last = f"the last good checkpoint is {good}" if good else "there is no checkpoint before it"
        went_back = f", after going back {self.count} times" if self.count else ""
        advice = f"lower learning_rate (now {self._config.learning_rate:g}) or set precision to fp32"
        if self._config.on_divergence == "stop" and good:
            advice += ", or set on_divergence to rewind"
        return f"{diverged.what}{went_back}; {last}: {advice}"
