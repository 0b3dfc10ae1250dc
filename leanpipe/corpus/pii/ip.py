"""Public IP addresses."""

import ipaddress
import re
from collections.abc import Iterator

from leanpipe.corpus.pii.pattern import Kind, Pattern, Span, is_digit, is_word

_NUMBERED = re.compile(  # what is numbered like an address, right before the number, in some languages
    r"(?:\b(?:v|ver|version|versi[oó]n|release|oid|item|sections?|sect?|sezione|se[cç]c?[aã]o|secci[oó]n(?:es)?"
    r"|chapters?|chapitre|cap[ií]tulo|capitolo|kapitel|abschnitte?n?|avsnitt|bagian|rozdzia[lł]|раздел\w*|глав\w*|τμήμα"
    r"|clause|part|paragraphs?|tables?|figures?|fig|appendix)|[§第節节章])[\s.:#(]{0,20}\Z",
    re.IGNORECASE,
)
_CALLED = re.compile(rb"\b(?:client_?ip|ip|address|visitor|user)\b", re.IGNORECASE)
_HOST = re.compile(  # what is a host, right before the number
    rb"(?:\b(?:hosts?|nameserver|dns|ping|ssh|traceroute|whois|inet|connect(?:ed|ing)?[ ]to)\b[^\w\n]{0,4}|://)\Z",
    re.IGNORECASE,
)
_RESOLVERS = frozenset({b"1.1.1.1", b"1.0.0.1", b"8.8.8.8", b"8.8.4.4", b"9.9.9.9", b"4.2.2.2", b"4.2.2.1"})
"""The addresses of four single digits that people write; all others are versions, or made up."""
_LINE_START = re.compile(rb"(?:\A|\n)[ \t]*(?:[-*+] )?\Z")
_CONTEXT = 30  # bytes before a number that are looked at
_RANGE_START, _RANGE_END = re.compile(rb"\d+(?:\.\d+){3}"), re.compile(rb"\d+(?:\.\d+){3}\Z")
_HEADING = re.compile(r"\.[ \t\xa0]+[^\W\d_]|[ \t\xa0]+[A-Z]")
_LONELY_DIGIT = 9
_HIGHEST_IN_HEADING = 99
_HIGHEST_IN_SECTION = (
    30  # of four numbers that nothing calls an address: of a million addresses 200 have none higher
)
_REVERSED = re.compile(rb"\.in-addr\.arpa\b", re.IGNORECASE)
_HOST_PART = 2**96 - 1  # what a provider gives away of the addresses of version 6 that it has
_LONGEST_V6 = 45  # characters, as INET6_ADDRSTRLEN
_PROTOCOLS = ipaddress.IPv4Network("192.0.0.0/24")  # nobody's host (RFC 6890)
_GLOBAL = ipaddress.IPv6Network("2000::/3")  # all that is handed out (RFC 4291, IANA)


def _check_v4(data: bytes, start: int, end: int) -> Iterator[Span]:
    number = data[start:end]
    if _REVERSED.match(data, end):
        number = b".".join(reversed(number.split(b".")))
    is_public = _is_public_v4(number) and (
        not number.endswith((b".0", b".255.255")) or _is_called_address(data, start, end)
    )
    if is_public and _is_alone(data, start, end) and not _is_version(data, start, end):
        yield start, end


def _is_alone(data: bytes, start: int, end: int) -> bool:
    """Whether it is no part of a longer number or name, such as 1.3.6.1.4.1, v1.2.3.4, lib-1.2.3.4 or 1.2.3.4-5."""
    if is_word(data, start - 1) or is_word(data, end):
        return False
    before, after = data[start - 1 : start], data[end : end + 1]
    if before in (b".", b"-", b"+", b"/") and is_word(data, start - 2):
        return before == b"-" and bool(_RANGE_END.search(data[max(0, start - 16) : start - 1]))
    if after == b"-" and is_word(data, end + 1):
        return bool(_RANGE_START.match(data[end + 1 : end + 16]))
    # More numbers, or what versions end with: .gcd1234, .dev0, .orig. A sentence begins with a capital.
    goes_on = is_digit(data, end + 1) or data[end + 1 : end + 2].islower()
    return not (after == b"." and goes_on) or bool(_REVERSED.match(data, end))


def _is_public_v4(number: bytes) -> bool:
    """Whether anyone can reach it."""
    try:
        address = ipaddress.IPv4Address(number.decode())
        return address.is_global and not address.is_multicast and address not in _PROTOCOLS
    except ValueError:
        return False


def _is_called_address(data: bytes, start: int, end: int) -> bool:
    """Whether what ends in 0 is a host after all, and no network: the words before it say so, and no mask follows."""
    before = data[max(0, start - _CONTEXT) : start]
    return (
        bool(_CALLED.search(before))
        and data[end : end + 1] != b"/"
        and not data.endswith((b".0.0", b".255.255"), start, end)
    )


def _is_called_host(data: bytes, start: int) -> bool:
    """Whether the words before it say that it is an address."""
    before = data[max(0, start - _CONTEXT) : start]
    return bool(_HOST.search(before)) or bool(_CALLED.search(before))


def _is_version(data: bytes, start: int, end: int) -> bool:
    """Whether it is a version or the number of a section, by the word before it or as a heading's first word."""
    if _NUMBERED.search(data[max(0, start - _CONTEXT) : start].decode(errors="ignore")):
        return True
    starts_line = bool(_LINE_START.search(data[max(0, start - _CONTEXT) : start]))
    highest = max(map(int, data[start:end].split(b".")))
    if highest <= _LONELY_DIGIT and data[start:end] not in _RESOLVERS:
        return True
    small = highest <= _HIGHEST_IN_HEADING
    if small and starts_line and _HEADING.match(data[end : end + 8].decode(errors="ignore")):
        return True
    is_lonely = highest <= _HIGHEST_IN_SECTION and data[start:end] not in _RESOLVERS
    return is_lonely and not _is_called_host(data, start)


def _check_v6(data: bytes, start: int, end: int) -> Iterator[Span]:
    if is_word(data, start - 1) or data[start - 1 : start] == b":" or end - start > _LONGEST_V6 + 2:
        return
    number = data[start:end].rstrip(b".:")  # a sentence may end here
    try:
        address = ipaddress.IPv6Address(number.decode())
    except ValueError:
        return
    is_network = not int(address) & _HOST_PART
    if address in _GLOBAL and not address.is_private and not is_network:
        yield start, start + len(number)


KIND = Kind(
    "ip",
    b"<IP_ADDRESS>",
    b"192.0.2.1",  # for documentation (RFC 5737)
    (
        Pattern(rb"[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}", _check_v4),
        Pattern(rb"[23][0-9a-fA-F]{3}:[0-9a-fA-F]{0,4}:[0-9a-fA-F:.]*", _check_v6),
    ),
)
