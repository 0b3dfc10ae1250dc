"""The champion of before: in one step, from Prefect's page as from the command line."""

import logging

from prefect import flow

from leanpipe.core.home import Home
from leanpipe.settings.flows import RollbackSettings
from tasks.tracking.champion.back import RolledBack, roll_back, user
from tasks.tracking.pages import show_page

log = logging.getLogger("leanpipe.registry")


@flow(name="rollback")
def roll_back_champion(config: RollbackSettings = RollbackSettings()) -> RolledBack:
    """Give the alias champion back to the champion before this one, or to a version that you name.

    Args:
        config: The model, the version, and who wants it and why: kept in the champion's history.
    """
    by = f"{config.by or user()} (the flow rollback)"
    done = roll_back(Home.from_environment(), config.name, config.version or None, by, config.why)
    sentence = said(done)
    log.info("%s", sentence)
    show_page(sentence, "rollback", "Which version is champion now")
    return done


def said(done: RolledBack) -> str:
    """What was done, in a sentence."""
    before = (
        f"version {done.before} was, and gets the alias back by hand only" if done.before else "nobody was"
    )
    return f"{done.name} version {done.version} is champion again; {before}."
