"""`python -m leanpipe.serving.engine serve …`: the command `transformers`, made to end with the process that started it."""

import ctypes
import logging
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Run `transformers` with this process's own arguments."""
    if sys.platform == "linux":
        # A parent killed outright must not leave its server on the port.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # With int8, bitsandbytes warns of a cast at every product of every token.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    from transformers.cli.transformers import main as transformers

    transformers()


if __name__ == "__main__":
    main()
