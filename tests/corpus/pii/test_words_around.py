"""What the words around a number say: that it is somebody's, or that it only looks like it."""

import re

import pytest

from leanpipe.corpus.pii import RedactConfig, redact


def is_kept(text: str) -> bool:
    result = redact(text, RedactConfig())
    return result.text == text and result.counts == {}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        # telephone numbers by the words around them
        ("Please call me back on 0494 11 22 33, thanks", "phone"),
        ("Nobody is answering at 71-33-52-11 today", "phone"),
        ("You can reach him under 0680 298 11 63", "phone"),
        ("my registered 024 971 11 30 gets nothing", "phone"),
        ("Phone:\n467 3311\n\nE-mail", "phone"),
        ("Desk: 5403926811", "phone"),
        ("416 60 011 office", "phone"),
        ("082 490 1611-Office", "phone"),
        ("930.167.3911 fax", "phone"),
        # … with an extension, and with the prefixes that people dial
        ("Fax: 345-899-3511x4587", "phone"),
        ("(898)666-3611x0135", "phone"),
        ("259.735.7511x459", "phone"),
        ("+1-903-140-4511x769", "phone"),
        ("001-518-640-0811 mobile", "phone"),
        # cards of other issuers, by their prefix, and short ones by a word
        ("180016070420458", "card"),
        ("213161594239298", "card"),
        ("3598899323053410", "card"),
        ("the limit of my card 675984103431 please", "card"),
        ("redeem points won on credit card 587428561654 transactions", "card"),
        # accounts in small letters
        ("my iban is de89370400440532013000", "iban"),
        ("de89 3704 0044 0532 0130 00", "iban"),
        ("I keep getting address 41.173.96.0 blocked", "ip"),
    ],
)
def test_personal_data_as_people_write_them(text: str, kind: str):
    result = redact(text, RedactConfig())
    assert result.counts == {kind: 1}
    assert not re.search(r"\d{3}", result.text)


@pytest.mark.parametrize(
    "text",
    [
        *("call 2007-2008", "registered 2019-2020", "text 1234567", "see office 365 and 2016 mobile"),
        *("on 450 0840 pages", "id 675984103431", "5018000000000", "de89370400440532013001"),
        *("be71-0961-2345-6769", "dE89370400440532013000", "the network 41.173.96.0", "address 41.173.0.0"),
        *("novas==3.1.1.3", "pip (7.0.3.1)", "Mailer 1.5.0.9 (X11)", "section\n     4.14.3.12 of ISO"),
        *("- 5.16.12.1. Epochs should be used", "  * 5.16.12.2. Special version", "group 224.0.0.251"),
    ],
)
def test_what_only_looks_like_such_personal_data_stays(text: str):
    assert is_kept(text)


@pytest.mark.parametrize(
    "text",
    [
        # numbers of other things in the very form of a person's
        *("my driver's license number is 487-35-9297", "Passport no. 528-12-3248", "licence: 123-45-6789"),
        *("tracking number is 733-876-0392", "Order #212-736-5000 is on its way", "order 4111111111111111"),
        # numbers of sections in any language, and versions whatever follows them
        *(
            "See قسم 11.7.3.2, “PAM”",
            "vegeu Secció 12.2.2.2, «Xarxa»",
            "11.7.3.2절. “PAM”",
            "(14.3.4.1 – „Audit“)",
        ),
        *(
            "12.1.2.3. \u200fLVM",
            "the 19.3.0.21 release",
            "upgrade from 11.2.0.4 to 12.1.0.2",
            "server 12.1.0.2",
        ),
        *("2.20.1.155.g426c96fcdb", "exe-2.20.1.160.dirty", "foo 36.2.50.1.orig", "84.16.7.201.dev0"),
        # what is nobody's host
        *(
            "1.0.0.127.in-addr.arpa",
            "126.255.255.255",
            "192.0.0.9/32",
            "2001:db00::0/24",
            "2001:db00::/ffff:ff00::",
        ),
        # units of systemd, which are named like addresses
        *("getty@tty1.service", "git-maintenance@hourly.timer", "user@1000.slice"),
        # templates of URLs in any language
        *("smb://usuario:contraseña@servidor/impresora", "ftp://nom-utilisateur:mot-de-passe@serveur/x"),
        *(
            "[protocol://][user[:password]@]proxyhost[:port]",
            "http://login:passwd-on-proxy@proxy-host.com:80",
        ),
    ],
)
def test_numbers_and_names_of_other_things_stay(text: str):
    assert is_kept(text)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        *(("ip 12.1.2.3", "ip"), ("nameserver 14.3.4.1", "ip"), ("http://12.1.2.3/x", "ip")),
        *(
            ("address 11.7.3.2 is blocked", "ip"),
            ("seen 36.2.50.1. Then", "ip"),
            ("10.201.94.212.in-addr.arpa", "ip"),
        ),
        *(("lines like 84.16.7.201.", "ip"), ("to 4.2.2.2 and", "ip")),
        ("ftp://anna:sommer@ftp.web.de/x", "key"),
        *(("postgres://app:x9hunter@db/x", "key"), ("my license is lost, SSN 487-35-9297", "ssn")),
        *(
            ("call about my order on 212-736-5000 please", "phone"),
            ("the order is on 4111111111111111", "card"),
        ),
    ],
)
def test_what_only_stands_near_such_words_is_still_found(text: str, kind: str):
    assert redact(text, RedactConfig()).counts == {kind: 1}
