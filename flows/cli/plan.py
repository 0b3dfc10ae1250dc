"""What `leanpipe plan` prints."""

from rich.markdown import Markdown

from flows.cli.console import console
from leanpipe.core.config import StageConfig
from leanpipe.core.home import Home
from leanpipe.core.store import Store
from leanpipe.planning.corpus_size import referred_bytes
from leanpipe.planning.model_config import describe_model
from leanpipe.planning.plan import plan_on
from leanpipe.training.trainer.memory import size_of


def print_plan(settings: StageConfig, device: str, home: Home) -> None:
    """Print what a run would take. Raises UserError for what does not fit, so that the exit status says so."""
    named = {name: getattr(settings, name) for name in ("teacher", "model") if hasattr(settings, name)}
    configs = {name: describe_model(reference) for name, reference in named.items()}
    if compared := getattr(settings, "models", ()):
        configs["model"] = max(map(describe_model, compared), key=lambda one: size_of(one).parameters)
    corpus = referred_bytes(getattr(settings, "corpus", ()))
    planned = plan_on(device, settings, configs, Store(home.store), corpus)
    console().print(Markdown(planned.markdown()))
    planned.check()
