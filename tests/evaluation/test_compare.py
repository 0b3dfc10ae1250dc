"""The table, its markdown, the picture and the model card."""

import yaml

from leanpipe.evaluation.compare import comparison, draw_size_against_quality, to_markdown
from leanpipe.evaluation.generate import Generation
from leanpipe.evaluation.model_card import model_card
from leanpipe.evaluation.report.run_report import RunFacts, report_markdown
from leanpipe.evaluation.report.stored_scores import ModelScores
from leanpipe.evaluation.task_scores.task_figures import figure_of
from leanpipe.evaluation.task_scores.task_results import TaskResult, side_by_side


def summary(bits, size):
    return {
        "bits_per_byte": bits,
        "bits_per_byte_error": 0.01,
        "perplexity": 1234.5,
        "parameters": 2_000_000,
        "size_bytes": size,
        "decode_tokens_per_second": 20.0,
        "prefill_tokens_per_second": 400.0,
        "first_token_seconds": 0.25,
        "peak_memory_bytes": 300_000_000,
        "held_out_bytes": 24_000,
        "held_out_digest": "0123456789abcdef",
    }


ROWS = {"teacher": summary(1.0, 270_000_000), "nf4": summary(1.25, 70_500_000)}


def test_one_row_per_model_in_order():
    table = comparison(ROWS)
    assert list(table.index) == ["teacher", "nf4"]
    assert table.loc["nf4", "size, MB"] == 70.5
    assert table.loc["teacher", "peak memory, MB"] == 300


def test_markdown():
    lines = to_markdown(comparison(ROWS)).splitlines()
    assert lines[0].startswith("| model | bits/byte | ± error | perplexity |")
    assert lines[3] == "| nf4 | 1.250 | 0.010 | 1,234.5 | 2.0 | 70.5 | 20.0 | 400 | 0.250 | 300 |"


def test_picture(tmp_path):
    draw_size_against_quality(ROWS, tmp_path / "new" / "picture.png")
    assert (tmp_path / "new" / "picture.png").read_bytes().startswith(b"\x89PNG")


def card(teacher, label="nf4", **others):
    return model_card(
        name="leanpipe",
        label=label,
        teacher=teacher,
        corpus="a folder of letters",
        stages={"clean": "aaa", "quantize": "bbb"},
        rows=ROWS | {"q4_0": ROWS["nf4"]},
        reason="it is the smallest.",
        generations=[Generation("What is a river?", "Water.", 2, True)],
        steps="Most was lost by **distill**.",
        **others,
    )


def test_card_says_where_the_model_comes_from_and_what_it_does():
    text = card("HuggingFaceTB/SmolLM2-135M-Instruct")
    front = yaml.safe_load(text.split("---")[1])
    assert front["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert "bitsandbytes" in front["tags"]
    for part in (
        "it is the smallest.",
        "a folder of letters",
        "- quantize: `bbb`",
        "70.5 MB",
        "| nf4 | 1.250",
        "Water.",
        "## What each stage did\n\nMost was lost by **distill**.",
    ):
        assert part in text, part


def test_card_of_a_local_teacher_names_no_hub_model():
    assert "base_model" not in yaml.safe_load(card("/models/teacher").split("---")[1])


def test_card_says_what_reads_the_model():
    """transformers' code for what transformers reads, and llama.cpp's for a GGUF file."""
    text = card("/models/teacher", "q4_0")
    assert "gguf" in yaml.safe_load(text.split("---")[1])["tags"]
    assert "model.gguf" in text and "from_pretrained" not in text
    assert "from_pretrained" in card("/models/teacher")


def test_card_has_tasks_as_the_report_has_them():
    tasks = {
        label: [
            TaskResult("capitals", "d", {"acc": figure_of(right, lambda values: sum(values) / len(values))})
        ]
        for label, right in (("teacher", [1.0, 1.0, 1.0, 0.0]), ("nf4", [1.0, 0.0, 1.0, 0.0]))
    }
    text = card("/models/teacher", tasks=tasks)
    models = {label: ModelScores(ROWS[label], tasks=tuple(some)) for label, some in tasks.items()}
    reported = report_markdown(RunFacts("a run", "", models))
    assert side_by_side(tasks) in text and side_by_side(tasks) in reported
    assert "| capitals | acc | 0.75 (" in text
    assert "## Tasks" not in card("/models/teacher")
