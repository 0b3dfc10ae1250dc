"""A person's yes before a challenger becomes champion: the run waits for it, paused, on its page in Prefect."""

import dataclasses
import logging
import math

from prefect import pause_flow_run
from prefect.exceptions import FlowPauseTimeout
from prefect.input import RunInput

from leanpipe.evaluation.gate import RegisterConfig
from leanpipe.evaluation.verdict import Outcome, Verdict
from tasks.tracking.versions import Version

log = logging.getLogger("leanpipe.registry")

_POLL = 10  # seconds


class Approval(RunInput):
    """What a person answers."""

    approve: bool = False
    """Whether the challenger becomes champion."""
    by: str = ""
    """Who says so."""
    why: str = ""
    """Why."""


def approved(verdict: Verdict, challenger: Version, champion: str, policy: RegisterConfig) -> Verdict:
    """The verdict if a person agrees, with who that was; else that the champion stays."""
    name, number = challenger.name, challenger.version
    seconds = math.ceil(policy.approval_hours * 3_600)
    asked = f"Shall version {number} of {name} become champion in the place of version {champion}?"
    log.warning("%s This run is paused until somebody resumes it on its page in Prefect.", asked)
    form = Approval.with_initial_data(description=f"**{asked}**\n\n{verdict.reason}")
    try:
        answer = pause_flow_run(
            wait_for_input=form,
            timeout=seconds,
            poll_interval=min(_POLL, seconds),
            key=f"champion-{number}-{champion}",
        )
    except FlowPauseTimeout:
        reason = f"Nobody approved of it within {policy.approval_hours:g} hours (registration.approval): {verdict.reason}"
        return dataclasses.replace(verdict, outcome=Outcome.KEEP, reason=reason, best=False)
    who = f"{answer.by or 'A person'}{f' ({answer.why})' if answer.why else ''}"
    if answer.approve:
        return dataclasses.replace(verdict, reason=f"{who} approved: {verdict.reason}")
    reason = f"{who} did not approve: {verdict.reason}"
    return dataclasses.replace(verdict, outcome=Outcome.KEEP, reason=reason, best=False)
