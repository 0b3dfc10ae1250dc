"""Where the `leanpipe` command prints. Nothing is markup there: what a person typed may hold brackets."""

import os
import sys

from rich.console import Console


def console() -> Console:
    """Make a console on standard output. Into a file or a pipe there is no width to keep to."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160
    return Console(highlight=False, markup=False, width=width)


def error_console() -> Console:
    """Make a console on standard error."""
    return Console(highlight=False, markup=False, stderr=True)
