"""Personal data and secrets are replaced by what kind of thing stood there. What they were is kept nowhere.

One pass over a text tells which kinds it may hold (RE2's set matching, linear whatever the text); only for these are
candidates looked at one by one, with their checksums and surroundings. A new kind is a file here and a line in `KINDS`.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any, Literal, NamedTuple

from leanpipe.core.config import StageConfig
from leanpipe.corpus.pii import email, iban, ip, phone, ssn
from leanpipe.corpus.pii import payment_card as card
from leanpipe.corpus.pii import secrets as keys
from leanpipe.corpus.pii.pattern import Kind, Span, merge_spans, replace_spans
from leanpipe.corpus.pii.phone_regions import find_national_numbers

__all__ = ["KINDS", "RedactConfig", "Redacted", "redact", "redacted_start"]

KINDS: tuple[Kind, ...] = (keys.KIND, email.KIND, iban.KIND, card.KIND, ip.KIND, ssn.KIND, phone.KIND)
"""In the order in which they are replaced: what has a checksum or a label goes before what only looks alike."""

_MARGIN = 4096  # characters: nothing that is redacted as a whole is longer
_MEMORY = 32 << 20  # bytes for the automaton of all patterns, of which noise can make it build many states


class RedactConfig(StageConfig):
    """Which personal data and secrets are replaced in the texts that are kept. They are counted, and kept nowhere."""

    email: bool = True
    """E-mail addresses, except at the names reserved for examples (RFC 2606), such as example.com."""
    ip: bool = True
    """Public IP addresses, version 4 and 6; private and reserved ones stay (as in FineWeb, Penedo et al. 2024)."""
    phone: bool = True
    """Telephone numbers that are written as such: +49 30 …, (212) 555-…, 212-555-…, after "Tel:" or "call me on", or before
    "office" and the like."""
    phone_regions: tuple[str, ...] = ()
    """Countries (ISO 3166, such as DE, US) whose numbers are found without a label too, by the plans that phonenumbers knows;
    needs pip install 'leanpipe[phonenumbers]'. It takes other rows of digits as well: see docs/corpus.md."""
    card: bool = True
    """Numbers of payment cards: an issuer's prefix and length, usual groups and a right checksum (Luhn); Maestro's, which may
    have twelve digits, with a word for a card near."""
    iban: bool = True
    """Bank accounts with a known country, its length and right check digits (ISO 13616)."""
    key: bool = True
    """Keys and tokens: private key blocks, those of well-known services, JWTs, passwords in URLs, and random-looking
    values of at least 16 characters that are assigned to a key, token, secret or password."""
    ssn: bool = True
    """Social security numbers of the USA, as 123-45-6789."""
    replacement: Literal["tag", "example"] = "tag"
    """What stands in their place: a tag such as <EMAIL> (as in StarCoder, Li et al. 2023, section 4), or a made-up
    example such as email@example.com (as in FineWeb)."""


class Redacted(NamedTuple):
    """A text without personal data, and how many there were."""

    text: str
    """The very same string if nothing was found."""
    counts: dict[str, int]
    """How many of each kind were replaced; kinds that were not found are left out."""


def redact(text: str, config: RedactConfig) -> Redacted:
    """Replace the personal data and secrets in `text` that `config` names."""
    data, counts = b"", {}
    for kind, spans, before in _found(text, config):
        data = replace_spans(before, spans, _stand_in(kind, config))
        counts[kind.name] = len(spans)
    return Redacted(data.decode("utf-8", "surrogatepass") if counts else text, counts)


def redacted_values(text: str, config: RedactConfig) -> Iterator[tuple[str, str]]:
    """Yield (kind, value) of all that `redact` replaces: for measuring, since cleaning keeps it nowhere."""
    for kind, spans, before in _found(text, config):
        yield from ((kind.name, before[start:end].decode("utf-8", "replace")) for start, end in spans)


def _found(text: str, config: RedactConfig) -> Iterator[tuple[Kind, list[Span], bytes]]:
    """Each kind that occurs, where it stands, and the text in which it does: without the kinds before it."""
    data = text.encode("utf-8", "surrogatepass")
    possible = _possible(data) | ({phone.KIND.name} if config.phone_regions else set())
    for kind in KINDS:
        if kind.name in possible and getattr(config, kind.name):
            spans = _find(kind, data)
            if kind.name == phone.KIND.name and config.phone_regions:
                spans = merge_spans([*spans, *find_national_numbers(data, config.phone_regions)])
            if spans:
                yield kind, spans, data
                data = replace_spans(data, spans, _stand_in(kind, config))


def _stand_in(kind: Kind, config: RedactConfig) -> bytes:
    return kind.tag if config.replacement == "tag" else kind.example


def redacted_start(text: str, config: RedactConfig, length: int) -> str:
    """Return the first `length` characters of what `redact` gives, without redacting all of a long text.

    A text that is cut before it is redacted may end with half an address, which is not recognised any more.
    """
    return redact(text[: length + _MARGIN], config).text[:length]


def _find(kind: Kind, data: bytes) -> list[Span]:
    """Find where something of this kind stands, in bytes, in order and apart."""
    return merge_spans(
        span
        for pattern, regex in zip(kind.patterns, _compiled().regexes[kind.name], strict=True)
        for match in regex.finditer(data)
        for span in pattern.check(data, match.start(), match.end())
    )


def _possible(data: bytes) -> set[str]:
    """Names of the kinds whose patterns occur, from one pass."""
    compiled = _compiled()
    return {compiled.names[index] for index in compiled.together.Match(data) or ()}


class _Compiled(NamedTuple):
    regexes: dict[str, list[Any]]
    together: Any
    names: list[str]
    """The kind of each pattern of `together`."""


@cache
def _compiled() -> _Compiled:
    import re2

    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1  # bytes as they are: half a surrogate pair is no error
    options.never_capture = True
    regexes = {kind.name: [re2.compile(one.regex, options) for one in kind.patterns] for kind in KINDS}
    options.max_mem = _MEMORY
    together, names = re2.Set.SearchSet(options), []
    for kind in KINDS:
        for pattern in kind.patterns:
            together.Add(pattern.regex)
            names.append(kind.name)
    together.Compile()
    return _Compiled(regexes, together, names)
