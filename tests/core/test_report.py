import json
from pathlib import Path

from leanpipe.core.report import CatchUp, MetricsFile, Silent, replay


def lines(path: Path) -> list[tuple]:
    return [(entry["step"], entry["values"]) for entry in map(json.loads, path.read_text().splitlines())]


def test_what_a_resumed_stage_tells_again_is_there_once(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    first = MetricsFile(path)
    first.metrics({"documents": 7})
    for step in (5, 10, 15):
        first.metrics({"loss": step, "speed": 1}, step)
    first.metrics({"validation_loss": 15}, 15)
    again = MetricsFile(path)  # from a checkpoint after step 8
    again.metrics({"loss": 10, "speed": 2}, 10)
    assert lines(path) == [
        (None, {"documents": 7}),
        (5, {"loss": 5, "speed": 1}),
        (15, {"validation_loss": 15}),
        (10, {"loss": 10, "speed": 2}),
    ]
    again.metrics({"loss": 15, "speed": 2}, 15)
    again.metrics({"validation_loss": 15}, 15)
    assert [step for step, _ in lines(path)] == [None, 5, 10, 15, 15]


def test_a_stage_that_begins_anew_leaves_nothing_of_before(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    for loss in (1, 2):
        MetricsFile(path).metrics({"validation_loss": loss}, 0)
    assert lines(path) == [(0, {"validation_loss": 2})]


def test_a_figure_without_steps_that_is_told_again_is_there_once(tmp_path: Path):
    """As by a stage that was killed after it had told it."""
    path = tmp_path / "metrics.jsonl"
    MetricsFile(path).metrics({"forgotten": 1, "documents": 7})
    again = MetricsFile(path)
    again.metrics({"loss": 5}, 5)
    again.metrics({"forgotten": 2})
    again.metrics({"forgotten": 3})
    assert lines(path) == [(None, {"documents": 7}), (5, {"loss": 5}), (None, {"forgotten": 3})]


def test_figures_of_one_step_in_several_lines_stay(tmp_path: Path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.metrics({"loss": 1}, 4)
    file.metrics({"validation_loss": 2}, 4)
    file.metrics({"cached_tokens": 3}, 1)
    assert len(lines(tmp_path / "metrics.jsonl")) == 3


def test_a_torn_line_is_left_out(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    MetricsFile(path).metrics({"loss": 1}, 1)
    path.write_text(path.read_text() + '{"step": 2, "val')
    MetricsFile(path).metrics({"loss": 3}, 2)
    assert lines(path) == [(1, {"loss": 1}), (2, {"loss": 3})]
    heard = []

    class Ear(Silent):
        def metrics(self, values, step=None):
            heard.append((values, step))

    replay(path, Ear())
    assert heard == [({"loss": 1}, 1), ({"loss": 3}, 2)]


class Listener(Silent):
    def __init__(self) -> None:
        self.heard: list[tuple] = []

    def metrics(self, values, step=None):
        self.heard.append((step, dict(values)))


def test_what_only_the_file_of_a_killed_stage_knows_is_told_by_the_next_attempt(tmp_path: Path):
    """Its process may have been killed while what it had told was on its way, and its checkpoint is of a later step."""
    path, listener = tmp_path / "metrics.jsonl", Listener()
    first = MetricsFile(path)
    first.metrics({"documents": 7})
    for step in (5, 10, 15):
        first.metrics({"loss": step}, step)
    first.metrics({"validation_loss": 3}, 10)
    again = CatchUp(path, listener)  # from a checkpoint after step 8
    for step in (10, 15):
        again.metrics({"loss": step}, step)
    again.finish()
    assert listener.heard == [
        (5, {"loss": 5}),
        (10, {"loss": 10}),
        (10, {"validation_loss": 3}),
        (15, {"loss": 15}),
    ]
    after_its_last_step = Listener()
    CatchUp(path, after_its_last_step).finish()
    assert [step for step, _ in after_its_last_step.heard] == [5, 10, 15, 10]
    fresh = Listener()
    nothing_before = CatchUp(tmp_path / "none.jsonl", fresh)
    nothing_before.metrics({"loss": 1}, 1)
    nothing_before.finish()
    assert fresh.heard == [(1, {"loss": 1})]
