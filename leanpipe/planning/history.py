"""What earlier runs took beside what would have been estimated for them: the store holds both settings and figures."""

import statistics
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from leanpipe.core import device
from leanpipe.core.device import Kind
from leanpipe.core.errors import UserError
from leanpipe.core.estimate import Estimate, published
from leanpipe.core.stage import Stage
from leanpipe.core.store import Manifest, Store, content_digest

_LAST = 5
"""So many of the newest runs of a stage count: older ones may be of another version, or of another machine's load."""
_SHORTEST = 20.0
"""Seconds: of a shorter run most is not training, and its speed says nothing of a longer one's."""


class History:
    """Corrects estimates by the results in a store that this model of device computed, and no other."""

    def __init__(self, store: Store, kind: Kind):
        self._manifests = sorted(store.manifests(), key=lambda one: one[0].stat().st_mtime, reverse=True)
        self._results = {
            content_digest(manifest.files): (path, manifest) for path, manifest in self._manifests
        }
        self._kind, self._device = kind, device.model()
        self._known: dict[str, list[tuple[Manifest, Estimate]]] = {}

    def seconds(self, stage: Stage, estimate: Estimate) -> tuple[float, int]:
        """How long the stage should take if earlier runs of it were alike, and how many they were: 0 of none that was long enough."""
        times = [
            manifest.seconds / old.work
            for manifest, old in self._pairs(stage)
            if manifest.seconds >= _SHORTEST and old.work
        ]
        return (estimate.work * statistics.median(times) if times else 0.0), len(times)

    def correct(self, stage: Stage, estimate: Estimate) -> tuple[Estimate, str]:
        """Memory multiplied by the median of measured over estimated, and a sentence that says so; all as it is, and
        "computed", where there is nothing to go by."""
        pairs = self._pairs(stage)
        if not pairs:
            return estimate, "computed"
        memory = statistics.median(manifest.peak_memory / old.peak for manifest, old in pairs)
        corrected = replace(
            estimate,
            peak=round(estimate.peak * memory),
            host=round(estimate.host * memory) if estimate.host == estimate.peak else estimate.host,
        )
        basis = f"corrected by {len(pairs)} earlier run{'s' if len(pairs) > 1 else ''}"
        return corrected, basis

    def _pairs(self, stage: Stage) -> list[tuple[Manifest, Estimate]]:
        """The newest earlier results of the stage, each with what would be estimated for it now."""
        if stage.name not in self._known:
            pairs: list[tuple[Manifest, Estimate]] = []
            for _, manifest in self._manifests:
                if len(pairs) < _LAST and (old := self._estimate(stage, manifest)):
                    pairs.append((manifest, old))
            self._known[stage.name] = pairs
        return self._known[stage.name]

    def _estimate(self, stage: Stage, manifest: Manifest) -> Estimate | None:
        """None where it is of another stage or device, its inputs are not in the store any more, or its settings are of
        another version."""
        measured = manifest.device == self._device and manifest.peak_memory
        if manifest.stage != stage.name or not measured or stage.estimate is None:
            return None
        try:
            config = stage.config_type.model_validate(manifest.config)
            estimate = stage.estimate(config, self._inputs(manifest), self._kind)
        except (ValidationError, UserError, KeyError):
            return None
        return estimate if estimate.peak else None

    def _inputs(self, manifest: Manifest) -> dict[str, Any]:
        """What is known of the inputs that are still in the store."""
        found: dict[str, Any] = {}
        for role, digests in manifest.inputs.items():
            several = [digests] if isinstance(digests, str) else digests
            known = tuple(published(*self._results[one]) for one in several if one in self._results)
            if len(known) == len(several):
                found[role] = known[0] if isinstance(digests, str) else known
        return found
