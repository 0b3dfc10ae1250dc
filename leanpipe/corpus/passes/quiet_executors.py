"""datatrove's executors without their lines on standard error: what goes wrong is raised, and progress is ours to show.

Classes at the top of a module, for workers unpickle them by name.
"""

from typing import Any

from datatrove.executor.local import LocalPipelineExecutor
from datatrove.executor.ray import RayPipelineExecutor
from datatrove.utils.logging import logger


class _Quiet:
    def run(self) -> Any:
        logger.disable("datatrove")
        try:
            return super().run()  # type: ignore[misc]
        finally:
            logger.enable("datatrove")

    def _run_for_rank(self, *arguments: Any, **options: Any) -> Any:
        logger.disable("datatrove")  # in the worker, where `run` was not called
        return super()._run_for_rank(*arguments, **options)  # type: ignore[misc]


class QuietLocalExecutor(_Quiet, LocalPipelineExecutor):
    """datatrove's executor on processes of this machine, without its log on standard error."""


class QuietRayExecutor(_Quiet, RayPipelineExecutor):
    """datatrove's executor on a Ray cluster, without its log on standard error."""
