"""What stage `distill` learns from, besides the text."""

from typing import Any

from leanpipe.core.store import Artifact
from leanpipe.settings.flows import DistillSettings
from leanpipe.training.distill.teacher_cache import cache_config, cache_teacher, cached_before
from tasks.resolve import Given
from tasks.run import Run


def predicted(run: Run, settings: DistillSettings, given: Given, blocks: Artifact) -> dict[str, Any]:
    """The stage `cache_teacher` on the text that the student will read, as an input of `distill`; nothing if the teacher
    is asked at every step, or not at all."""
    if not settings.distill.uses_cache:
        return {}
    config = cache_config(settings.cache, blocks.path, settings.distill.tokens)
    base = cached_before(run.store, config, given.model, blocks)
    more: dict[str, Any] = {"base": base} if base else {}
    return {"teacher_logprobs": run.stage(cache_teacher, config, teacher=given.model, blocks=blocks, **more)}
