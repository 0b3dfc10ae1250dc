"""A sheet as one HTML page: it needs no network, is used by keys or mouse, and keeps in the browser what was voted."""

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path

TEMPLATE = Path(__file__).with_name("sheet_page.html")


def sheet_page(sheet: str, items: Sequence[tuple[str, str, str, str]]) -> str:
    """Fill the page with the items: each a name, a prompt, the answer on the left and the one on the right."""
    template = TEMPLATE.read_text(encoding="utf-8")
    script = re.search(r"<script>(.*?)</script>", template, re.S)
    assert script
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    names = ("item", "prompt", "left", "right")
    content = {"sheet": sheet, "items": [dict(zip(names, item, strict=True)) for item in items]}
    # Within a script element nothing but "<" could end it.
    data = json.dumps(content, ensure_ascii=False).replace("<", "\\u003c")
    # The data last: what a model wrote may look like another of these marks.
    page = template.replace("SCRIPT_DIGEST", digest).replace("SHEET_NAME", sheet)
    before, _, after = page.partition("SHEET_DATA")
    return f"{before}{data}{after}"
