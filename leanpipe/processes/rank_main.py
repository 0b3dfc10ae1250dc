"""`python -m leanpipe.processes.rank_main`: one of several processes that run a stage together. Its job comes as JSON on standard input."""

import json
import logging
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from leanpipe.core import device
from leanpipe.core.errors import UserError
from leanpipe.core.report import Report, Silent
from leanpipe.core.stage import find_stage
from leanpipe.processes.ipc import EventStream, events_to_parent, quiet, send_logs
from leanpipe.processes.launcher import Done, rank
from leanpipe.processes.parent_death import die_with_parent


def main() -> None:
    """Run the job that comes on standard input as one rank, and tell the parent what comes of it."""
    die_with_parent(parent=int(sys.argv[1]))
    events = events_to_parent()
    job = json.load(sys.stdin)
    send_logs(events, job["log_level"] if rank() == 0 else logging.CRITICAL)
    quiet()
    try:
        summary = _run(job, Silent() if rank() else events)
        events.send(summary=summary, peak_memory=device.peak_memory())
    except Done:
        pass
    except UserError as error:
        events.send(user_error=str(error))
    except BaseException:  # noqa: BLE001 - whatever it was, the parent is told, and raises it
        events.send(error=traceback.format_exc())
    # Other threads, of torch.distributed, would wait for processes that are gone.
    os._exit(0)


def _run(job: dict[str, Any], report: Report | EventStream) -> dict[str, Any]:
    stage = find_stage(job["stage"])
    config = stage.config_type.model_validate(job["config"])
    inputs = {name: _paths(value) for name, value in job["inputs"].items()}
    return stage.function(config, stage.inputs_type(**inputs), Path(job["out"]), report)


def _paths(value: str | list[str] | None) -> Path | tuple[Path, ...] | None:
    if value is None:
        return None
    return Path(value) if isinstance(value, str) else tuple(map(Path, value))


if __name__ == "__main__":
    main()
