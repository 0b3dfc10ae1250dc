"""Every look at the held-out text in the last year, kept with the registered model: what is left of the error budget.

A look is a tag, `leanpipe.look.TIME`, written before its verdict is known. Read and add looks only while you hold the model's
lock, else two take what one may.
"""

from datetime import UTC, datetime

from mlflow import MlflowClient

from leanpipe.evaluation.decide.error_budget import YEAR, Look, level_of

_TAG = "leanpipe.look."


def take_look(
    client: MlflowClient, name: str, pair: str, budget: float, now: datetime | None = None
) -> float:
    """The level at which the models of `pair` may be compared; it counts from now on. That of an earlier look at them is kept."""
    now = now or datetime.now(UTC)
    looks = _read(client, name)
    for tag, look in looks.items():
        if now - look.time >= YEAR:
            client.delete_registered_model_tag(name, tag)
    recent = [look for look in looks.values() if now - look.time < YEAR]
    level = level_of(recent, pair, budget, now)
    if all(look.pair != pair for look in recent):
        look = Look(time=now, pair=pair, level=level)
        tag = f"{_TAG}{now.strftime('%Y-%m-%dT%H:%M:%S.%fZ')}"
        client.set_registered_model_tag(name, tag, look.model_dump_json())
    return level


def _read(client: MlflowClient, name: str) -> dict[str, Look]:
    tags = client.get_registered_model(name).tags
    return {
        tag: Look.model_validate_json(value) for tag, value in sorted(tags.items()) if tag.startswith(_TAG)
    }
