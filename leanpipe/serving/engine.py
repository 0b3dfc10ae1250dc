"""`python -m leanpipe.serving.engine PARENT serve …`: the command `transformers`, made to end with the process PARENT, which started it."""

import logging
import signal
import sys

from leanpipe.processes.parent_death import die_with_parent


def main() -> None:
    """Run `transformers` with this process's other arguments."""
    die_with_parent(
        signal.SIGTERM, int(sys.argv.pop(1))
    )  # a parent killed outright must not leave its server on the port
    # With int8, bitsandbytes warns of a cast at every product of every token.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    from transformers.cli.transformers import main as transformers

    transformers()


if __name__ == "__main__":
    main()
