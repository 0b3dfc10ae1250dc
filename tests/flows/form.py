"""The form of a deployment in a real browser, as a person sees it and fills it in."""

from pathlib import Path
from typing import Any

from tests.flows.servers import Servers

LABEL = ".schema-form-property__label"
DOZEN = (
    "Corpus",
    "Instructions",
    "Teacher",
    "Preset",
    "Student Size",
    "Minutes",
    "Distill Tokens",
    "Finetune Tokens",
    "Quantize Formats",
    "Languages",
    "Evaluation Sets",
    "Model Name",
    "Other Settings",
)
"""What the short form asks for, from top to bottom."""


class Form:
    """The page on which a run of `data-to-deployment/NAME` is started."""

    def __init__(self, servers: Servers, browser: Any, name: str):
        self.page = browser.new_page(viewport={"width": 1400, "height": 1000})
        self.page.set_default_timeout(90_000)
        self.page.goto(f"{servers.prefect}/deployments/deployment/{servers.deployment(name)['id']}")
        self.page.get_by_role("button", name="Run", exact=True).first.click()
        self.page.get_by_text("Custom run").first.click()
        self.page.locator(LABEL).first.wait_for()

    def labels(self) -> list[str]:
        """Every label in the order in which it is read, that of the box around all included."""
        found = self.page.locator(LABEL).all_inner_texts()
        return [label.removesuffix(" (Optional)") for label in found]

    def help(self, label: str) -> str:
        return " ".join(
            self._field(label).locator(".schema-form-property__description").first.inner_text().split()
        )

    def choose(self, label: str, option: str) -> None:
        # Prefect 3.8 opens a list by its arrow; a click on its text opens and closes it.
        self._field(label).locator(".p-select-button__icon").click()
        self.page.locator(".p-select-option").filter(has_text=option).click()

    def add(self, label: str, text: str) -> None:
        field = self._field(label)
        field.get_by_role("button", name="Add item").click()
        field.locator("textarea").last.fill(text)

    def picture(self, path: Path) -> bytes:
        """A screenshot of the form, from its top to at most 12,000 pixels below."""
        height = self.page.locator(LABEL).first.evaluate(
            "e => e.closest('form').getBoundingClientRect().height"
        )
        self.page.set_viewport_size({"width": 1400, "height": min(12_000, round(height) + 400)})
        return self.page.screenshot(path=path)

    def submit(self) -> None:
        self.page.get_by_role("button", name="Submit").click()
        self.page.get_by_text("scheduled to start").first.wait_for()

    def _field(self, label: str) -> Any:
        return self.page.locator(
            f"xpath=//span[contains(@class, 'schema-form-property__label') and text()='{label} (Optional)']"
            "/ancestor::div[contains(concat(' ', @class, ' '), ' schema-form-property ')][1]"
        )


_FIGURES_BESIDE = """e => {
    const middle = x => { const box = x.getBoundingClientRect(); return (box.top + box.bottom) / 2 }
    return [...document.querySelectorAll("*")]
        .filter(x => !x.children.length && x.innerText && Math.abs(middle(x) - middle(e)) < 8)
        .map(x => Number(x.innerText)).filter(x => !isNaN(x))
}"""


def figures_beside(page, metric: str) -> list[float]:
    """The figures that a person sees on the metric's line: MLflow's table is made of columns, not of rows."""
    cell = page.get_by_text(metric, exact=True).first
    cell.wait_for()
    return cell.evaluate(_FIGURES_BESIDE)
