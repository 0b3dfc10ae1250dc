"""The student goes on from its own answers inside the whole pipeline."""

from pathlib import Path

import pytest

from leanpipe.core.store import Manifest, content_digest
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
    found = [
        Manifest.model_validate_json(path.read_text())
        for path in (tmp_path / "store").glob("*/*/manifest.json")
    ]
    # The preset's teacher comes from stage distill, too.
    chain = {one.stage: one for one in found if one.stage != "distill" or "teacher_logprobs" in one.inputs}
    digest = {stage: content_digest(manifest.files) for stage, manifest in chain.items()}
    assert chain["on_policy"].inputs["student"] == digest["distill"]
    assert chain["finetune"].inputs["model"] == digest["on_policy"]
    assert chain["on_policy"].inputs["teacher"] == chain["distill"].inputs["teacher"]
