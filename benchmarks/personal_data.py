"""`python -m benchmarks.personal_data [CASES]`: what of personal data is found, and what is taken for it that is none.

On manuals (PostgreSQL's, the Debian handbook, Python's: 20 MB of text) every redaction but those of mail addresses is compared
with what somebody judged to be an address, a number or a key, and what is new is listed: it is false, or was not judged yet.
Mail addresses are counted. CASES is a file of JSON lines {"text": …, "spans": [{"type": …, "value": …}]}, such as
presidio-research's synthetic texts (https://github.com/microsoft/presidio-research), of which all spans must go, and
nothing else may.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1"}

from benchmarks.pages import PAGES, pages
from benchmarks.report import claim, write
from leanpipe.corpus.extract.main_text import ExtractConfig, extract_main_text
from leanpipe.corpus.normalize import normalize
from leanpipe.corpus.pii import KINDS, RedactConfig, redact, redacted_values

PYTHON, INSIDE = "python3.11-doc", "usr/share/doc/python3.11/html"
TYPES = {
    "CREDIT_CARD": "card",
    "EMAIL_ADDRESS": "email",
    "IBAN_CODE": "iban",
    "IP_ADDRESS": "ip",
    "PHONE_NUMBER": "phone",
    "US_SSN": "ssn",
}
# What stands in these manuals as an address of a host or a person, a telephone number or a password.
RIGHT = """
    8.8.8.8 63.87.254.249 82.50.72.202 93.184.216.34 100.50.200.5 123.123.123.123 123.231.231.123 123.45.67.89
    130.89.148.77 192.0.3.6 192.83.123.89 193.168.1.2 193.23.158.13 195.20.105.149 199.127.61.96 200.46.204.71
    200.58.141.84 206.221.184.234 209.222.96.251 212.27.32.176 212.27.32.177 212.78.10.32 212.94.201.10 212.94.201.11
    213.244.11.247 2001:67c:2564:a119::77 2606:2800:220:1:248:1893:25c8:1946
    834.345.1254 892.345.3428 925.541.7625 548.326.4584 FS7CUxsY3xkusv7EkbT9yae
"""
JUDGED = set(RIGHT.split())


def main(cases: Path | None = None) -> None:
    rows = [in_manuals()]
    if cases:
        rows += in_cases([json.loads(line) for line in cases.read_text().splitlines()])
    write("personal_data", rows)


def in_manuals() -> dict:
    """Count redactions that nobody judged to be right, in each 10 MB."""
    found: Counter[str] = Counter()
    size, false = 0, 0
    for text in manuals():
        size += len(text.encode())
        for kind, value in redacted_values(text, RedactConfig()):
            found[kind] += 1
            if kind != "email" and value not in JUDGED:
                false += 1
                print(f"not judged: {kind} {value}")
    print(f"{size / 1e6:.1f} MB of manuals: {dict(found)}")
    return claim("false redactions in 10 MB of manuals", 10e6 * false / size, 1, "", 1, at_most=True)


def manuals() -> Iterator[str]:
    for page in [*pages(), *python_pages()]:
        html = page.read_text(errors="replace")
        yield normalize(extract_main_text(html, ExtractConfig()).text)


def python_pages() -> list[Path]:
    """Python's manual, as Debian packages it. Needs apt."""
    if not (PAGES / INSIDE).is_dir():
        subprocess.run(["apt-get", "-qq", "download", PYTHON], cwd=PAGES, check=True)
        for archive in PAGES.glob(f"{PYTHON}_*.deb"):
            subprocess.run(["dpkg", "-x", archive, PAGES], check=True)
    return sorted(path for path in (PAGES / INSIDE).rglob("*.html") if not path.is_symlink())


def in_cases(cases: list[dict]) -> list[dict]:
    """Share of the spans that go, by kind, and texts in 1,000 of which something else goes."""
    spans: Counter[str] = Counter()
    gone: Counter[str] = Counter()
    false = 0
    for case in cases:
        true = Counter(TYPES[one["type"]] for one in case["spans"] if one["type"] in TYPES)
        result = redact(case["text"], RedactConfig())
        spans += true
        gone += Counter(
            TYPES[one["type"]]
            for one in case["spans"]
            if one["type"] in TYPES and one["value"] not in result.text
        )
        false += bool(Counter(result.counts) - true)
    goals = {"phone": 80 / 92, **dict.fromkeys(("card", "iban", "email", "ssn", "ip"), 1.0)}
    rows = [
        claim(f"found: {kind.name} ({gone[kind.name]} of {spans[kind.name]})", gone[kind.name], spans[kind.name], "", goals[kind.name])
        for kind in KINDS
        if spans[kind.name]
    ]  # fmt: skip
    return [
        *rows,
        claim("false redactions in 1,000 texts", 1000 * false / len(cases), 1, "", 1, at_most=True),
    ]


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
