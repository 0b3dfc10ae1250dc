"""`python -m tests.tasks.race HOME NAME TIMES`: move the champion of a model so often, from a home of its own."""

import os
import random
import sys
import time
from pathlib import Path

from mlflow import MlflowClient

from leanpipe.core.home import Home
from tasks.tracking.champion.back import roll_back


def main(home: Home, name: str, times: int) -> None:
    chance = random.Random(str(home.root))
    MlflowClient().get_registered_model(name)  # all that it imports
    home.root.mkdir(parents=True, exist_ok=True)
    (home.root / "ready").touch()
    while len(list(home.root.parent.glob("*/ready"))) < 2:  # the other is still importing
        time.sleep(0.01)
    for _ in range(times):
        # Read without the lock, as a person does: whoever is champion when it is held gets another in his place.
        champion = MlflowClient().get_registered_model(name).aliases.get("champion")
        others = [number for number in ("1", "2", "3", "4") if number != str(champion)]
        try:
            roll_back(home, name, chance.choice(others), f"process {os.getpid()}", "a race")
        except Exception as error:  # the other was as quick, with the same choice
            if "is champion already" not in str(error):
                raise


if __name__ == "__main__":
    main(Home(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3]))
