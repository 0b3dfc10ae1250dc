"""`python -m leanpipe.serving.engine serve …`: the command `transformers`, made to end with the process that started it."""

import logging
import signal

from leanpipe.processes.parent_death import die_with_parent


def main() -> None:
    """Run `transformers` with this process's own arguments."""
    die_with_parent(signal.SIGTERM)  # a parent killed outright must not leave its server on the port
    # With int8, bitsandbytes warns of a cast at every product of every token.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    from transformers.cli.transformers import main as transformers

    transformers()


if __name__ == "__main__":
    main()
