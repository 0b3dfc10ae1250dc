"""`python -m tests.flows.command_host CASES RESULTS`: the `leanpipe` command many times, each in a child of one process.

What takes seconds of every command, its imports and its Prefect server, is done once. Each command then runs from `main` on in
a fork of its own, with its own arguments, environment, user and output, as the installed script runs it.
"""

import gc
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

NOBODY = 65534
_AT_ONCE = 2
_LONGEST_SECONDS = 300


def prepare() -> None:
    """Import what the commands import, start the Prefect server that they share, and create MLflow's tables."""
    from leanpipe.core.home import Home
    from tasks.environment import prepare_environment, terminal_environment
    from tasks.prefect_server.temporary import TemporaryServer

    os.environ.update(terminal_environment(in_place=True))
    home = Home.from_environment()
    prepare_environment(home)
    server = TemporaryServer()
    import flows.cli.mask
    import flows.cli.terminal
    import flows.deployments  # noqa: F401
    from leanpipe.planning.references import import_for_plans
    from tasks.tracking.runs import Tracking

    import_for_plans()
    server.wait()
    os.waitpid(_fork(lambda: Tracking(home)), 0)  # in a child: connections to a database must not be forked
    for path in (home.root, *home.root.rglob("*")):  # a command that somebody else runs writes there too
        path.chmod(0o777)
    gc.collect()
    gc.freeze()  # or each child looks through all that was imported, and copies it by that


def run_all(cases: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run every command, two at a time; what each said and how it ended, by the name of its case."""
    waiting, running, found = list(cases), dict[int, str](), dict[str, Any]()
    while waiting or running:
        while waiting and len(running) < _AT_ONCE:
            name = waiting.pop(0)
            running[_fork(lambda name=name: _become(cases[name], folder / name))] = name
        child, status = os.wait()
        if child in running:
            name = running.pop(child)
            said = {one: (folder / f"{name}.{one}").read_text(errors="replace") for one in ("out", "err")}
            found[name] = {"code": os.waitstatus_to_exitcode(status), **said}
    return found


def _fork(work: Callable[[], object]) -> int:
    child = os.fork()
    return child if child else _end_with(work)


def _end_with(work: Callable[[], object]) -> NoReturn:
    """Do the work in this child, and end it as Python ends a script."""
    code = 1
    try:
        signal.alarm(_LONGEST_SECONDS)
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - as Python itself shows it
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _become(case: dict[str, Any], said: Path) -> None:
    """Be the command that the case describes."""
    for number, ending in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{said}.{ending}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), number)
    os.environ.update(case["environment"])
    if case["nobody"] and os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    sys.argv = ["leanpipe", *case["arguments"]]
    from flows.cli.main import main

    main()


if __name__ == "__main__":
    prepare()
    results = Path(sys.argv[2])
    results.write_text(json.dumps(run_all(json.loads(Path(sys.argv[1]).read_text()), results.parent)))
