"""Where the `leanpipe` command prints its tables."""

import os
import sys

from rich.console import Console


def console() -> Console:
    """Make a console on standard output. Into a file or a pipe there is no width to keep to."""
    return Console(highlight=False, width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160)
