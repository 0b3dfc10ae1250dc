"""`leanpipe plan`: a plan in the terminal."""

import importlib

from rich.markdown import Markdown

from flows.cli.console import console
from leanpipe.core.config import StageConfig
from leanpipe.core.home import Home
from leanpipe.core.store import Store
from leanpipe.planning.plan import plan_on
from leanpipe.planning.references import expected_inputs


def print_plan(flow: str, settings: StageConfig, device: str, home: Home) -> None:
    """Print the plan; raises UserError for what does not fit, so that the exit status says so."""
    story = importlib.import_module(f"flows.{flow.replace('-', '_')}").stages
    planned = plan_on(device, story, settings, expected_inputs(settings), Store(home.store))
    console().print(Markdown(planned.markdown()))
    planned.check()
