"""What came of comparing a served form with its trained model, and the page and picture of it for people."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from leanpipe.core import markdown
from leanpipe.core.plots import DROPPED, KEPT, picture
from leanpipe.core.stage import Summary
from leanpipe.core.store import REPORT
from leanpipe.evaluation.parity.bounds import BOUNDS, Fault, Form
from leanpipe.evaluation.parity.predictions import Divergence

PAGE, PICTURE = "parity.md", "parity.png"


@dataclass(frozen=True)
class Exchange:
    """One probe that the server was given."""

    called: str
    trained_tokens: int
    served_tokens: int
    trained_answer: str | None
    """The trained model's greedy answer; None where only tokens were counted."""
    served_answer: str | None


@dataclass(frozen=True)
class Outcome:
    """Every fault that was found, in the order of the checks, and what was measured on the way."""

    form: Form | Literal["unknown"]
    faults: list[Fault]
    """The first of each name: what comes of one cause is seen in many places."""
    divergence: Divergence | None = None
    """None if a fault was found before."""
    exchanges: list[Exchange] = field(default_factory=list)
    """Empty if a fault was found before."""

    def __post_init__(self) -> None:
        first = {fault.name: fault for fault in reversed(self.faults)}
        self.faults[:] = [one for one in self.faults if first[one.name] is one]

    @property
    def same_answers(self) -> float:
        """The share of answers that are the trained model's, word for word."""
        asked = [one for one in self.exchanges if one.trained_answer is not None]
        return sum(one.trained_answer == one.served_answer for one in asked) / len(asked) if asked else 0.0

    def summary(self) -> Summary:
        """Return the headline figures; `fault` is the first fault's sentence, or empty."""
        found: Summary = {"passed": int(not self.faults), "faults": len(self.faults)}
        if self.divergence:
            found |= {"kl": self.divergence.kl, "top_1_agreement": self.divergence.agreement}
        if self.exchanges:
            found |= {"same_answers": self.same_answers, "probes_served": len(self.exchanges)}
        first = self.faults[0] if self.faults else None
        return found | {"fault": first.sentence if first else "", "fault_name": first.name if first else ""}

    def write(self, out: Path) -> None:
        """Write `parity.json`, and the page and the picture under `report/`."""
        told = asdict(self) | {"faults": [one._asdict() for one in self.faults]}
        (out / "parity.json").write_text(json.dumps(told, indent=2, ensure_ascii=False))
        folder = out / REPORT
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PAGE).write_text(self.markdown())
        self._draw(folder / PICTURE)

    def markdown(self) -> str:
        """Return the page: the verdict, what was measured beside its bound, and every probe."""
        verdict = "\n".join(f"- **{one.name}**: {markdown.plain(one.sentence)}" for one in self.faults)
        parts = [f"# Parity of the served form ({self.form})", verdict or "It answers as it was trained."]
        if self.divergence and self.form != "unknown":
            rows = [
                (
                    "nats per token from the trained model",
                    f"{self.divergence.kl:.4g}",
                    f"{BOUNDS[self.form].kl:g}",
                ),
                ("positions at which the same token is best", f"{self.divergence.agreement:.1%}", "–"),
                ("answers that are the same, word for word", f"{self.same_answers:.0%}", "–"),
            ]
            parts.append(markdown.table(("figure", "measured", "at most"), rows, "lrr"))
        if self.exchanges:
            header = ("probe", "tokens trained", "tokens served", "trained answer", "served answer")
            rows_of_probes = (
                (
                    one.called,
                    one.trained_tokens,
                    one.served_tokens,
                    markdown.plain(one.trained_answer or ""),
                    markdown.plain(one.served_answer or ""),
                )
                for one in self.exchanges
            )
            parts.append(markdown.table(header, rows_of_probes, "lrrll"))
        return "\n\n".join(parts) + "\n"

    def _draw(self, path: Path) -> None:
        """Draw the divergence beside its bound, or the names of the faults where there was none to measure."""
        bound = 0.0 if self.form == "unknown" else BOUNDS[self.form].kl
        measured = self.divergence.kl if self.divergence else 0.0
        with picture(path, width=6, height=2.5) as axes:
            axes.barh([self.form], [measured], color=DROPPED if self.faults else KEPT)
            axes.axvline(bound, color="black", linestyle="--", label=f"at most {bound:g}")
            axes.set(xlabel="nats per token from the trained model")
            axes.set_title(
                ", ".join(dict.fromkeys(one.name for one in self.faults)) or "answers as it was trained"
            )
            axes.legend()
