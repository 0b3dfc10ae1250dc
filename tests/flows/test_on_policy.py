"""The student goes on from its own answers inside the whole pipeline."""

from pathlib import Path

import pytest

from leanpipe.store import Manifest, content_digest
from tests.flows.servers import leanpipe

pytestmark = pytest.mark.timeout(600)

SETTINGS = {
    "on_policy.steps": 2,
    "on_policy.max_new_tokens": 4,
    "distill.tokens": 1_024,
    "finetune.tokens": 1_024,
    "quantize.formats": "[nf4]",
}


def test_what_is_finetuned_is_the_student_that_learnt_from_its_own_answers(tmp_path: Path):
    chosen = [word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}")]
    done = leanpipe(tmp_path, "run", "--in-place", "--preset", "smoke", *chosen)
    assert done.returncode == 0, done.stdout + done.stderr
    manifests = {
        manifest.stage: manifest
        for path in (tmp_path / "store").glob("*/*/manifest.json")
        if (manifest := Manifest.model_validate_json(path.read_text()))
    }
    stages = ("distill", "on_policy", "finetune")
    digest = {stage: content_digest(manifests[stage].files) for stage in stages}
    assert manifests["on_policy"].inputs["student"] == digest["distill"]
    assert manifests["finetune"].inputs["model"] == digest["on_policy"]
    assert manifests["on_policy"].inputs["teacher"] == manifests["distill"].inputs["teacher"]
