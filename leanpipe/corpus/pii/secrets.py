"""Keys, tokens and passwords."""

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator

from leanpipe.corpus.pii.pattern import Kind, Pattern, Span, is_word

_TOKENS = (  # by the prefixes that services give theirs so that they can be found
    rb"(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}",  # Amazon Web Services
    rb"gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,}",
    rb"glpat-[A-Za-z0-9_-]{20,}",
    rb"xox[abeprs]-[A-Za-z0-9-]{10,}|xapp-[A-Za-z0-9-]{20,}",  # Slack
    rb"hooks\.slack\.com/services/T[A-Z0-9]+/B[A-Z0-9]+/[A-Za-z0-9]{16,}",
    rb"AIza[A-Za-z0-9_-]{35}|ya29\.[A-Za-z0-9_-]{20,}|GOCSPX-[A-Za-z0-9_-]{20,}",  # Google
    rb"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?",  # JSON Web Token (RFC 7519)
    rb"[sr]k_(?:live|test)_[A-Za-z0-9]{16,}",  # Stripe
    rb"hf_[A-Za-z]{34}|npm_[A-Za-z0-9]{36}|pypi-AgE[A-Za-z0-9_-]{50,}|dop_v1_[a-f0-9]{64}",
    rb"SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}",  # SendGrid
    rb"[0-9]{8,10}:AA[A-Za-z0-9_-]{33}",  # Telegram
)
_RANDOM_TOKEN = rb"\bsk-[A-Za-z0-9_-]{20,}"  # OpenAI, Anthropic; but also names of style sheets
_VALUE = rb"[A-Za-z0-9+/_=~.-]{16,}"
_LABEL = (
    rb"(?i)(?:(?:key|token|secret|password|passwd|pwd|passphrase)[\"']?\s{0,9}(?:=>|:=|=|:)|\bbearer\s)"
    rb"\s{0,9}[\"']?"
)
_IN_URL = rb"://[^\s/:@\"'<>]+:[^\s/@\"'<>]+@"
_BEGIN = rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----"

_LABELLED = re.compile(_LABEL)
_PLACEHOLDER = re.compile(
    rb"(?i)[$%{\[*]|.?(?:pass(?:word|wd)?|secret|pwd|xxx+|pass(?:word|wd)?[-_][a-z_-]+|\*+|\.+)\d*\Z"
)
_BRACKET = re.compile(rb"[\[\]{}()<>]")
_NO_HOST = re.compile(rb"[A-Za-z][\w-]*(?![\w.-])")  # a word for one, as templates have it: server, servidor
_SEPARATOR = rb"(?:[\s\"'+,>|]|\\[nr])*+"  # lines may be quoted, indented or written as \n
_BODY = re.compile(  # possessive throughout: nothing is tried twice
    rb"(?:\s*+[A-Z][A-Za-z-]++: [^\n]*+\n)*+"  # Proc-Type, Version, …
    rb"(?:" + _SEPARATOR + rb"[A-Za-z0-9/=][A-Za-z0-9+/=]{15,}+)++"
    rb"(?:" + _SEPARATOR + rb"[A-Za-z0-9+/=]*+" + _SEPARATOR + rb"-----END [A-Z0-9 ]++-----)?+"
)
_JUDGED = 200  # bytes of a value
_MIN_DIGITS = 3
_MIN_ENTROPY = (
    3.0  # bits per character: random hexadecimal digits have nearly 4, words of a language under 3 rarely
)
_MIN_CHANGES = (
    0.2  # per character, between capitals, small letters and digits: random ones have 0.47 and more
)


def _check_token(data: bytes, start: int, end: int) -> Iterator[Span]:
    if not is_word(data, start - 1):
        yield start, end


def _check_random(data: bytes, start: int, end: int) -> Iterator[Span]:
    if _looks_random(data[start:end]):
        yield start, end


def _check_assigned(data: bytes, start: int, end: int) -> Iterator[Span]:
    label = _LABELLED.match(data, start, end)
    if label:
        yield from _check_random(data, label.end(), end)


def _check_url(data: bytes, start: int, end: int) -> Iterator[Span]:
    """The password of `://user:password@`, unless it says that it is none."""
    password = data.index(b":", start + 3) + 1
    user, value = data[start + 3 : password - 1], data[password : end - 1]
    is_template = bool(_BRACKET.search(user + value))
    is_word = value.decode(errors="replace").replace("-", "").isalpha() and value.islower()
    if not _PLACEHOLDER.match(value) and not is_template and not (is_word and _NO_HOST.match(data, end)):
        yield password, end - 1


def _check_block(data: bytes, start: int, end: int) -> Iterator[Span]:
    """To the end marker, or, where it is missing, as far as it looks like a key. The markers alone are none."""
    body = _BODY.match(data, end)
    if body:
        yield start, body.end()


def _looks_random(value: bytes) -> bool:
    """Whether letters and digits change too often, and differ too much, for a name, a path or a number."""
    value = value[:_JUDGED]
    classes = [_class(byte) for byte in value]
    counts = Counter(value)
    entropy = -sum(count / len(value) * math.log2(count / len(value)) for count in counts.values())
    changes = sum(a != b for a, b in itertools.pairwise(classes) if a and b)
    return (
        classes.count("d") >= _MIN_DIGITS and entropy >= _MIN_ENTROPY and changes >= _MIN_CHANGES * len(value)
    )


def _class(byte: int) -> str:
    character = chr(byte)
    if character.isdigit():
        return "d"
    return ("u" if character.isupper() else "l") if character.isalpha() else ""


KIND = Kind(
    "key",
    b"<KEY>",
    b"XXXXXXXXXXXXXXXX",
    (
        Pattern(_BEGIN, _check_block),
        Pattern(rb"|".join(_TOKENS), _check_token),
        Pattern(_RANDOM_TOKEN, _check_random),
        Pattern(_LABEL + _VALUE, _check_assigned),
        Pattern(_IN_URL, _check_url),
    ),
)
