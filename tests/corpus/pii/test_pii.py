import random
import re
import string

import pytest

from leanpipe.core.errors import UserError
from leanpipe.corpus.pii import KINDS, RedactConfig, redact, redacted_start

# Put together here, so that nobody who searches this repository for keys finds any.
BASE62 = "x7Kp9mQ2vL4nR8tZ1wB6yD3cF5gH0jS7aE2u"
AWS = "AKIA" + "IOSFODNN7EXAMPLE"
JWT = ".".join(("eyJ" + "hbGciOiJIUzI1NiJ9", "eyJ" + "zdWIiOiIxMjM0NTY3ODkwIn0", "dozjgNryP4J3jVmNHl0w5N"))
BLOCK = "-----BEGIN RSA {0}-----\nMIIEpAIBAAKCAQEA7x\nq83vEiM0VniavN7wEi==\n-----END RSA {0}-----".format(
    "PRIVATE KEY"
)


def redacted(text: str, **config) -> str:
    return redact(text, RedactConfig(**config)).text


def is_kept(text: str) -> bool:
    result = redact(text, RedactConfig())
    return result.text == text and result.counts == {}


FOUND = {
    "email": [
        *(
            "ann@web.de",
            "Ann.B+c@mail.uni-x.co.uk",
            "o'neil@web.ie",
            "müller@web.de",
            "a@exämple.de",
            "иван@почта.рф",
        ),
        *("a_b-c%d@x.io", "x@xn--80a1acny.xn--p1ai", "12@34.com"),
    ],
    "ip": ["8.8.8.8", "212.94.201.10", "2001:67c:2564:a119::77", "2a00:1450:4001:0810:0000:0000:0000:200e"],
    "phone": [
        *("+49 30 1234567", "+442071838750", "+1 (212) 736-5000", "+33 1 42 68 53 00", "+7 495 123-45-67"),
        *("(212) 736-5000", "212-736-5000", "212.736.5000", "1-212-736-5000", "(212) 736 5000"),
    ],
    "card": [  # the test numbers that issuers publish
        *(
            "4111111111111111",
            "4111 1111 1111 1111",
            "4111-1111-1111-1111",
            "5555555555554444",
            "2223003122003222",
        ),
        *("378282246310005", "3782 822463 10005", "30569309025904", "6011111111111117", "3530111333300000"),
        *("4222222222222", "6200000000000005"),
    ],
    "iban": [  # the examples of the IBAN registry
        *("DE89370400440532013000", "DE89 3704 0044 0532 0130 00", "GB29 NWBK 6016 1331 9268 19"),
        *("NO9386011117947", "FR1420041010050500013M02606", "MT84MALT011000012345MTLCAST001S"),
    ],
    "ssn": ["123-45-6789", "899-99-9999"],
    "key": [
        *(
            AWS,
            "ghp_" + BASE62,
            "glpat-" + BASE62[:20],
            "xoxb-" + "123456789012-abcdef",
            "AIza" + BASE62[:35],
            JWT,
        ),
        *("sk-" + BASE62, "sk_live_" + BASE62[:24], "npm_" + BASE62, BLOCK, BLOCK.replace("\n", "\\n")),
    ],
}
EACH = [(kind, value) for kind, values in FOUND.items() for value in values]
TAGS = {kind.name: kind.tag.decode() for kind in KINDS}


@pytest.mark.parametrize(
    "around", ["{}", "See {}.", "({}), and", "是{}。", "“{}”", "a\n{}\nb", "x: {};", "\ud800 {} \0"]
)
@pytest.mark.parametrize(("kind", "value"), EACH)
def test_each_kind_is_replaced_and_counted_whatever_stands_around_it(kind: str, value: str, around: str):
    result = redact(around.format(value), RedactConfig())
    assert result.text == around.format(TAGS[kind])
    assert result.counts == {kind: 1}


@pytest.mark.parametrize(("kind", "value"), EACH)
def test_a_kind_that_is_switched_off_stays(kind: str, value: str):
    others = {name: False for name in FOUND if name != kind}
    assert redacted(f"See {value}.", **others) == f"See {TAGS[kind]}."
    assert redacted(f"See {value}.", **dict.fromkeys(FOUND, False)) == f"See {value}."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Tel.: 030 1234567, Fax: 030/7654321", "Tel.: <PHONE_NUMBER>, Fax: <PHONE_NUMBER>"),
        ("Phone number: 07885 577 899 or", "Phone number: <PHONE_NUMBER> or"),
        ("Téléphone : 1, tél: 01 42 68 53 00", "Téléphone : 1, tél: <PHONE_NUMBER>"),
        ("postgres://bob:Xk2p-91q@db.web.de/x", "postgres://bob:<KEY>@db.web.de/x"),
        (f"api_key = '{BASE62}'", "api_key = '<KEY>'"),
        (f'"client-secret": "{BASE62}",', '"client-secret": "<KEY>",'),
        (f"Authorization: Bearer {BASE62}", "Authorization: Bearer <KEY>"),
        ("token=9f86d081884c7d659a2feaa0c55ad015&x=1", "token=<KEY>&x=1"),
        ("8.8.8.8-8.8.4.4 http://8.8.8.8:80/", "<IP_ADDRESS>-<IP_ADDRESS> http://<IP_ADDRESS>:80/"),
        ("8.8.8.8\nGoogle\n9.9.9.9. \nOther", "<IP_ADDRESS>\nGoogle\n<IP_ADDRESS>. \nOther"),
        ("a@web.de,b@web.de;<c@web.de>", "<EMAIL>,<EMAIL>;<<EMAIL>>"),
        ("mailto:a@web.de?subject=x", "mailto:<EMAIL>?subject=x"),
        ("联系a@web.de吧", "联系<EMAIL>吧"),
        ("John,4111111111111111,12/25", "John,<CARD_NUMBER>,12/25"),
        ("4111 1111 1111 1111 123", "<CARD_NUMBER> 123"),
        ("BIC DEUTDEFF IBAN DE89 3704 0044 0532 0130 00 EUR 5", "BIC DEUTDEFF IBAN <IBAN> EUR 5"),
        ("+1 212-736-5000 2024-01-02", "<PHONE_NUMBER>-01-02"),  # as many groups as a number can have
    ],
)
def test_only_the_thing_itself_is_replaced(text: str, expected: str):
    assert redacted(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        # wrong checksums, lengths, countries, issuers
        *(
            "4111111111111112",
            "4111 1111 1111 1112",
            "411111111111111",
            "9111111111111111",
            "0.4111111111111111",
        ),
        *(
            "DE89370400440532013001",
            "DE8937040044053201300",
            "ZZ89370400440532013000",
            "XDE89370400440532013000",
        ),
        *(
            "000-12-3456",
            "666-12-3456",
            "900-12-3456",
            "123-00-4567",
            "123-45-0000",
            "1123-45-6789",
            "123-45-67890",
        ),
        # numbers that are something else
        *(
            "1.2.3",
            "1.2.3.4.5",
            "1.3.6.1.4.1.311",
            "v1.2.3.4",
            "version 9.3.0.4",
            "lib-1.2.3.4",
            "Firefox/3.6.13.2",
        ),
        *(
            "see Section 4.1.2.1",
            "(see Section\u00a04.1.2.1)",
            "9.7.3.5. Regular Expressions",
            "256.1.1.1",
            "1.2.3.4-5",
        ),
        *("10.0.0.1", "192.168.1.1", "127.0.0.1", "0.0.0.0", "255.255.255.0", "192.0.2.1", "128.1.0.0/16"),
        *("fe80::1", "::1", "2001:db8::1", "std::dead::beef", "12:30:45", "2024:11:22", "fc00::12:3"),
        *(
            "2024-11-22T06:34:10",
            "22.11.2024",
            "978-3-16-148410-0",
            "ISBN 9783161484100",
            "979-10-91414-21-0",
        ),
        *("1997-2005", "3.14159265358979", "+2147483647", "-9223372036854775808", "+92233720368547758.07"),
        *(
            "1234567890",
            "2125551234",
            "212 736 5000",
            "100-200-3000",
            "911-911-1911",
            "tel: 2007-2008",
            "+31.4159265358",
        ),
        *("call 202-555-0100", "1 000 000 000 000 000", "4000 4100 4200 4300 4400 4500 4600 4700"),
        # addresses that are nobody's, and what only looks like one
        *("ann@example.com", "x@mail.example.org", "u@host.test", "root@localhost", "git@github.com:a/b.git"),
        *("icon@2x.png", "pkg@1.2.3", "@property.setter", "a@b", "foo@", "A@B.T", "user@host", "@media (x)"),
        # names, hashes and placeholders that are no secrets
        *("key = DatumGetDataType", "token = gettoken_function", "key: /etc/ssl/private/vpn2022.com.key"),
        *(
            "password: hunter2",
            "api_key=your_api_key_goes_here",
            "secret = 1234567890123456789",
            "KEY=pg_int4_ops_int8_2x",
        ),
        *(
            "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b",
            "task-force-and-other-long-words-here",
            "desk-0-1-2-3-4-5-6-7-8-9",
        ),
        *(
            "postgresql://user:secret@localhost/x",
            "ftp://u:$PASSWORD@host/",
            "http://h:8080/a@b",
            "-----BEGIN PUBLIC KEY-----",
        ),
        *("", "def f(a, b): return a @ b", "蜜蜂是一种昆虫。", "ναι, 1.500,00 €", "price: $4,111.11"),
    ],
)
def test_what_only_looks_alike_stays(text: str):
    assert is_kept(text)
    assert is_kept(f"Well: {text} is it") or re.search(r"Section|5\. R|2\. 衝", text)


def test_numbers_of_a_country_need_no_label_if_it_is_named():
    pytest.importorskip("phonenumbers")
    text = "Das Museum, 030 901820, öffnet um 10; Fax 030 901821. ISBN 978-3-16-148410-0, 2019-2020."
    assert redacted(text, phone_regions=["DE"]).startswith("Das Museum, <PHONE_NUMBER>, öffnet um 10")
    assert "978-3-16-148410-0, 2019-2020" in redacted(text, phone_regions=["DE"])
    assert "030 901820" in redacted(text) and "030 901820" in redacted(
        text, phone_regions=["DE"], phone=False
    )
    with pytest.raises(UserError, match="'XX', which is no region"):
        redact("030 901820", RedactConfig(phone_regions=("XX",)))


def test_a_clean_text_is_the_very_same_string():
    text = "Nothing here, not even at 12:30 on 22.11.2024: x = a[1] @ b\n" * 100
    assert redact(text, RedactConfig()).text is text


@pytest.mark.parametrize("replacement", ["tag", "example"])
def test_what_stands_in_its_place_is_not_taken_for_another(replacement: str):
    text = "\n".join(f"See {value} now." for _, value in EACH)
    once = redact(text, RedactConfig(replacement=replacement))
    assert once.counts == {kind: len(values) for kind, values in FOUND.items()}
    assert is_kept(once.text)


def test_examples_look_like_the_thing():
    text = redacted("Write to ann@web.de or 8.8.8.8", replacement="example")
    assert text == "Write to email@example.com or 192.0.2.1"


@pytest.mark.parametrize("number", range(20))
def test_nothing_of_what_was_found_is_left(number: int):
    """In a text of everything in any order, no value is there any more, and all the rest is."""
    dice = random.Random(number)
    picked = dice.choices(EACH, k=30)
    text = " | ".join(value for _, value in picked)
    assert redacted(text) == " | ".join(TAGS[kind] for kind, _ in picked)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BLOCK.split("-----END")[0] + "\nAnd then a sentence.", "<KEY>\n\nAnd then a sentence."),
        (BLOCK.replace("\n", "\n    "), "<KEY>"),
        (BLOCK.replace("\n", "\\n' +\n  '"), "<KEY>"),
        (BLOCK.replace("\nMII", "\nProc-Type: 4,ENCRYPTED\n\nMII"), "<KEY>"),
        (BLOCK + "\n" + BLOCK, "<KEY>\n<KEY>"),
        (BLOCK[:31] + " is how a block begins.", BLOCK[:31] + " is how a block begins."),
        (BLOCK[:31] + "\n…\n" + BLOCK[-29:], BLOCK[:31] + "\n…\n" + BLOCK[-29:]),
    ],
)
def test_key_blocks_are_replaced_as_far_as_they_go(text: str, expected: str):
    assert redacted(text) == expected


@pytest.mark.parametrize("length", range(40))
@pytest.mark.parametrize("value", ["ann@web.de", "4111 1111 1111 1111", BLOCK])
def test_the_start_of_a_text_shows_no_part_of_what_is_cut_off(value: str, length: int):
    text = f"Twenty letters here. {value} " + "x" * 10_000
    expected = redacted(text)[:length]
    assert redacted_start(text, RedactConfig(), length) == expected
    assert len(expected) == length


MEGABYTE = 1_000_000
SLOW = [
    *(
        "4",
        "4 ",
        "4111 ",
        "1.",
        "8.8.8.8-",
        "2001:",
        "2001:: ",
        "AA00",
        "DE89 3704 0044 0532 0130 01 ",
        "12-34-",
    ),
    *(
        "a",
        "@",
        "a@",
        "a@a.a",
        "a'",
        "ж@",
        "-----BEGIN PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----a@web.de ",
    ),
    *(
        "key=",
        "key" + " " * 9,
        "key=A1b2",
        "://a:",
        "://a:b@",
        "eyJ",
        "eyJaaaaaaaa.",
        "sk-",
        "tel: ",
        "+4",
        "(2",
        "蜜",
    ),
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("piece", SLOW)
def test_texts_meant_to_be_slow_are_not(piece: str):
    size = MEGABYTE if redact(piece * 9, RedactConfig()).counts == {} else MEGABYTE // 5
    text = piece * (size // len(piece.encode())) + " z@web.de"
    assert redacted(text).endswith(" <EMAIL>")


def test_random_text_does_not_hide_what_follows_it():
    """The automaton of all patterns has a bounded memory; running over it must not end the search."""
    noise = "".join(random.Random(0).choices(string.printable + "0123456789.:-+@" * 5, k=MEGABYTE))
    result = redact(noise + " 212.94.201.10 " + AWS, RedactConfig(email=False))
    assert result.text.endswith(" <IP_ADDRESS> <KEY>")


def test_settings_are_checked():
    with pytest.raises(ValueError, match="replacement"):
        RedactConfig(replacement="hash")  # type: ignore[arg-type]
