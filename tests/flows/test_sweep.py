"""A sweep makes each combination once, and tells which of them are worth having. As a run: tests/flows/test_run_pages.py."""

from flows.sweep import settings_of
from leanpipe.core.estimate import Expected
from leanpipe.evaluation.pareto import dominated_by, draw_pareto, worth_having
from leanpipe.planning.steps import RunInputs
from leanpipe.settings.flows import SweepSettings
from tests.support.tiny_models import tiny_model


def test_every_combination_that_makes_another_model_is_made_once(tmp_path):
    given = RunInputs(models=(Expected(tiny_model(tmp_path / "model")),))

    def made(**settings):
        return [
            (name, *one.formats, one.embeddings)
            for name, one in settings_of(SweepSettings.model_validate(settings), given)
        ]

    formats = {"formats": ["q8_0", "q4_0", "nf4", "q4_0"]}
    assert made(quantize=formats, sweep={"embeddings": ["q8_0", "q4_0", "q4_0"]}) == [
        ("q8_0", "q8_0", "auto"),
        ("q4_0-q8_0", "q4_0", "q8_0"),
        ("q4_0-q4_0", "q4_0", "q4_0"),
        ("nf4", "nf4", "auto"),
    ]
    assert [name for name, *_ in made(sweep={"embeddings": ["q5_0"]})] == ["q8_0", "q4_0-q5_0"]


def summary(size: float, speed: float, bits: float) -> dict[str, float]:
    return {
        "size_bytes": size,
        "decode_tokens_per_second": speed,
        "bits_per_byte": bits,
        "bits_per_byte_error": 0.1,
    }


def test_what_another_beats_in_all_three_is_not_worth_having(tmp_path):
    rows = {
        "full": summary(100, 10, 1.00),
        "small": summary(25, 40, 1.05),
        "slow": summary(30, 30, 1.06),
        "slower, better": summary(30, 30, 1.04),
        "its equal": summary(30, 30, 1.04),
    }
    assert worth_having(rows) == ["full", "small", "slower, better", "its equal"]
    assert [label for label, by in dominated_by(rows).items() if by] == ["slow"]
    assert dominated_by(rows)["slow"] == "slower, better"  # of those that beat it the one of fewest bits
    by_size = dominated_by({**rows, "fast": summary(110, 90, 1.00)}, speed=False)
    assert by_size["fast"] == "full" and by_size["small"] == ""
    draw_pareto(rows, tmp_path / "pareto.png")
    assert (tmp_path / "pareto.png").stat().st_size > 5_000
