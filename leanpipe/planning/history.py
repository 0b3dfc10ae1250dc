"""What earlier runs took beside what would have been predicted for them: the store holds both settings and figures."""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from leanpipe.compression.quantize import QuantizeConfig
from leanpipe.core import device
from leanpipe.core.errors import UserError
from leanpipe.core.store import MANIFEST, Manifest, Store, content_digest
from leanpipe.evaluation.evaluate import EvaluateConfig
from leanpipe.planning.stages import (
    Kind,
    StagePlan,
    plan_cache,
    plan_distill,
    plan_evaluate,
    plan_finetune,
    plan_on_policy,
    plan_pretrain,
    plan_quantize,
)
from leanpipe.training.distill.distill import DistillConfig
from leanpipe.training.distill.teacher_cache import CacheConfig
from leanpipe.training.finetune.finetune import FinetuneConfig
from leanpipe.training.on_policy.on_policy import OnPolicyConfig
from leanpipe.training.pretrain.pretrain import PretrainConfig

_LAST = 5
"""So many of the newest runs of a stage count: older ones may be of another version, or of another machine's load."""
_SHORTEST = 20.0
"""Seconds: of a shorter run most is not training, and its speed says nothing of a longer one's."""


class History:
    """Corrects plans by the results in a store that this model of device computed, and no other."""

    def __init__(self, store: Store, kind: Kind, speed: float):
        self._manifests = sorted(_manifests(store), key=lambda one: one[0].stat().st_mtime, reverse=True)
        self._folders = {content_digest(manifest.files): path for path, manifest in self._manifests}
        self._by_digest = {content_digest(manifest.files): manifest for _, manifest in self._manifests}
        self._kind, self._speed, self._device = kind, speed, device.model()

    def correct(self, plan: StagePlan) -> StagePlan:
        """Memory and time multiplied by the median of measured over predicted; as it is where there is nothing to go by."""
        pairs = list(self._pairs(plan.stage))[:_LAST]
        if not pairs:
            return plan
        memory = statistics.median(manifest.peak_memory / old.peak for manifest, old in pairs)
        times = [
            manifest.seconds / (old.work / self._speed)
            for manifest, old in pairs
            if manifest.seconds >= _SHORTEST
        ]
        return replace(
            plan,
            peak=round(plan.peak * memory),
            host=round(plan.host * memory) if plan.host == plan.peak else plan.host,
            seconds=plan.seconds * (statistics.median(times) if times else 1),
            basis=f"corrected by {len(pairs)} earlier run{'s' if len(pairs) > 1 else ''}",
        )

    def _pairs(self, stage: str) -> Iterator[tuple[Manifest, StagePlan]]:
        """Earlier results of the stage, each with what would be predicted for it now."""
        for _, manifest in self._manifests:
            if manifest.stage != stage or manifest.device != self._device or not manifest.peak_memory:
                continue
            if plan := self._replan(manifest):
                yield manifest, plan

    def _replan(self, manifest: Manifest) -> StagePlan | None:
        """None where its inputs are not in the store any more, or its settings are of another version."""
        planners: dict[str, Callable[[Manifest], StagePlan | None]] = {
            "cache_teacher": self._cache,
            "distill": self._distill,
            "on_policy": self._on_policy,
            "pretrain": self._pretrain,
            "finetune": self._finetune,
            "quantize": self._quantize,
            "evaluate": self._evaluate,
        }
        try:
            return planners[manifest.stage](manifest) if manifest.stage in planners else None
        except (ValidationError, UserError):
            return None

    def _cache(self, manifest: Manifest) -> StagePlan | None:
        teacher = self._folders.get(str(manifest.inputs.get("teacher")))
        block = self._block(manifest)
        if not teacher or not block:
            return None
        config = CacheConfig.model_validate(manifest.config)
        return plan_cache(config, config.blocks * block, teacher, self._kind)

    def _distill(self, manifest: Manifest) -> StagePlan | None:
        teacher = self._folders.get(str(manifest.inputs.get("teacher")))
        block = self._block(manifest)
        if not teacher or not block:
            return None
        return plan_distill(DistillConfig.model_validate(manifest.config), teacher, block, self._kind)

    def _on_policy(self, manifest: Manifest) -> StagePlan | None:
        config = OnPolicyConfig.model_validate(manifest.config)
        teacher, student = (
            self._folders.get(str(manifest.inputs.get(name))) for name in ("teacher", "student")
        )
        return plan_on_policy(config, teacher, student, self._kind) if teacher and student else None

    def _pretrain(self, manifest: Manifest) -> StagePlan | None:
        blocks = self._by_digest.get(str(manifest.inputs.get("blocks")))
        block = self._block(manifest)
        if not blocks or not block:
            return None
        config = PretrainConfig.model_validate(manifest.config)
        return plan_pretrain(config, blocks.summary["vocabulary"], block, self._kind)

    def _finetune(self, manifest: Manifest) -> StagePlan | None:
        model = self._folders.get(str(manifest.inputs.get("model")))
        return (
            plan_finetune(FinetuneConfig.model_validate(manifest.config), model, self._kind)
            if model
            else None
        )

    def _quantize(self, manifest: Manifest) -> StagePlan | None:
        model = self._folders.get(str(manifest.inputs.get("model")))
        config = QuantizeConfig.model_validate(manifest.config)
        return plan_quantize(config, model, self._kind) if model else None

    def _evaluate(self, manifest: Manifest) -> StagePlan | None:
        model = self._folders.get(str(manifest.inputs.get("model")))
        config = EvaluateConfig.model_validate(manifest.config)
        return plan_evaluate(config, model, self._kind) if model else None

    def _block(self, manifest: Manifest) -> int | None:
        blocks = self._by_digest.get(str(manifest.inputs.get("blocks")))
        return blocks.config.get("block_length") if blocks else None


def _manifests(store: Store) -> Iterator[tuple[Path, Manifest]]:
    for path in store.root.glob(f"[!.]*/*/{MANIFEST}"):
        yield path.parent, Manifest.model_validate_json(path.read_text())
