"""The report that lies with a run, and two runs compared by it, with the run and the servers of the tests of the whole, which collect this."""

from pathlib import Path

from tests.flows.mlflow_runs import client, files, parents
from tests.flows.servers import Servers, leanpipe


def test_a_run_has_a_report_and_two_runs_are_compared_by_what_lies_with_them(first_run, servers: Servers):
    mlflow, run = client(servers), parents(client(servers))[-1]
    report = {file.removeprefix("report/") for file in files(mlflow, run.info.run_id, "report")}
    assert {"report.html", "report.md", "waterfall.png", "scores.json"} <= report
    name = run.info.run_name.partition(" ")[0]
    done = leanpipe(servers.home, "compare", name, run.info.run_id)
    assert done.returncode == 0, done.stderr
    assert "No stage certainly costs more" in done.stdout and "finetune" in done.stdout
    refused = leanpipe(servers.home, "compare", name, "no-such-run")
    assert refused.returncode == 1 and "MLflow knows no run no-such-run" in refused.stderr
    shown = mlflow.download_artifacts(run.info.run_id, "report/report.md")
    text = Path(shown).read_text()
    assert text.index("leanpipe version 1") < text.index("## What each stage did")
    assert "answers, bits/byte" in text and "adapted → q4_0" in text
