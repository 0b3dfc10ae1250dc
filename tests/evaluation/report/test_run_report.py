"""The report of a run: everything in one file, the verdict first, and nothing that somebody wrote can run in it."""

import re

import pytest

from leanpipe.evaluation.generate import Generation
from leanpipe.evaluation.perplexity import Score
from leanpipe.evaluation.report.run_report import RunFacts, write_run_report
from leanpipe.evaluation.report.stored_scores import ModelScores
from tests.evaluation.test_compare import summary
from tests.flows.conftest import browser  # noqa: F401

EVIL = "<script>alert(1)</script> | <img src=x onerror=alert(1)> [x](javascript:alert(1)) **bold** ![](http://x/y.png)"


def model(factor: float) -> ModelScores:
    scores = {str(n): Score(factor * (100 + n), 50, 200) for n in range(8)}
    answers = {f"a{n}": Score(factor * 10 * (n + 1), 9, 40) for n in range(4)}
    figures = {**summary(factor, int(1e8 * factor)), "answer_bits_per_byte": factor / 2}
    return ModelScores(figures, {"bits_per_byte": scores, "answer_bits_per_byte": answers})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    labels = {"teacher": 1.0, "student": 1.4, "adapted": 1.5, "q4_0": 1.6}
    collection = {"web": {"bits_per_byte": 1.25, "documents": 5, "bytes": 900}}
    facts = RunFacts(
        title="merry-owl (data-to-deployment)",
        verdict="Registered as **leanpipe version 3**, champion.",
        models={label: model(factor) for label, factor in labels.items()},
        collections=dict.fromkeys(labels, collection | {EVIL: collection["web"]}),
        generations={label: [Generation("Why?", EVIL, 4, True)] for label in labels},
        parity={"q4_0": {"passed": 1, "fault": ""}},
        stages="| stage | seconds |\n| --- | ---: |\n| clean | 1.0 |\n",
        lineage=[("clean", "0123abcd", f"corpus.0: {EVIL}")],
        data_card=f"# Data card\n\n12 documents.\n\n## Sources\n\n- {EVIL}\n\n## Samples\n\nsecret sample\n",
    )
    folder = tmp_path_factory.mktemp("report")
    write_run_report(facts, folder)
    return folder


def test_the_verdict_comes_first_then_the_steps_then_all_else(folder):
    text = (folder / "report.md").read_text()
    order = [
        "# merry-owl",
        "> Registered as **leanpipe version 3**",
        "## What each stage did",
        "q4_0 passed parity",
        "## Quality",
        "## Quality by collection",
        "## Size and speed",
        "## Answers side by side",
        "## Stages",
        "## Where it comes from",
        "## Data card",
    ]
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    assert "held-out answers" in text and "secret sample" not in text


def test_the_page_is_one_file_that_fetches_and_runs_nothing(folder):
    page = (folder / "report.html").read_text()
    assert not re.search(r"<script|onerror=[^&]*>|href=\"javascript|<link|@import", page.replace("&lt;", ""))
    sources = re.findall(r'src="([^"]*)"', page)
    assert len([one for one in sources if one.startswith("data:image/png;base64,")]) == 2
    assert all(one.startswith("data:") for one in sources)


@pytest.mark.browser
def test_a_browser_shows_it_whole(folder, browser):  # noqa: F811
    page = browser.new_page(viewport={"width": 1_000, "height": 900})
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("dialog", lambda dialog: pytest.fail("something in the page ran"))
    page.goto((folder / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 1_000
    widths = page.evaluate("[...document.images].filter(one => one.alt).map(one => one.naturalWidth)")
    assert len(widths) == 2 and all(width > 100 for width in widths)
    assert "leanpipe version 3" in page.inner_text("blockquote")
    assert not [one for one in asked if not one.startswith(("file:", "data:"))]
    page.close()
