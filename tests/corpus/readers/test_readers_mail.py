"""Mails as programs have written them for forty years, and some that no program should have."""

import base64
import quopri
from pathlib import Path

import pytest

from tests.corpus.reading import read, read_one

PNG = b'Content-Type: image/png; name="x.png"\nContent-Transfer-Encoding: base64\n\niVBORw0KGgo=\n'


def text_of(tmp_path: Path, *lines: bytes, name: str = "a.eml") -> str:
    [text], skipped = read_one(tmp_path, name, b"\n".join(lines))
    assert skipped == []
    return text


def multipart(kind: bytes, *parts: bytes, boundary: bytes = b"=_x") -> bytes:
    inside = b"".join(b"--" + boundary + b"\n" + part + b"\n" for part in parts)
    head = b"Content-Type: multipart/" + kind + b'; boundary="' + boundary + b'"\n\npreamble\n'
    return head + inside + b"--" + boundary + b"--\nepilogue\n"


def part(kind: bytes, text: bytes) -> bytes:
    return b"Content-Type: text/" + kind + b"; charset=utf-8\n\n" + text


@pytest.mark.parametrize(
    ("charset", "encoding", "encode"),
    [
        ("utf-8", "8bit", bytes),
        ("iso-8859-1", "quoted-printable", quopri.encodestring),
        ("windows-1251", "base64", base64.encodebytes),
        ("koi8-r", "BASE64", base64.encodebytes),
        ("iso-2022-jp", "7bit", bytes),
        ("nonsense", "8bit", bytes),
    ],
)
def test_transfer_encodings_and_charsets(tmp_path: Path, charset: str, encoding: str, encode):
    text = {"iso-8859-1": "Café = 5 €\n".replace("€", "£"), "iso-2022-jp": "日本語\n"}.get(
        charset, "Привет\n"
    )
    data = encode(text.encode("utf-8" if charset == "nonsense" else charset))
    head = f'Subject: x\nContent-Type: text/plain; charset="{charset}"\nContent-Transfer-Encoding: {encoding}\n\n'
    assert text_of(tmp_path, head.encode() + data) == f"x\n\n{text}"


@pytest.mark.parametrize(
    ("header", "subject"),
    [
        (b"Subject: plain", "plain"),
        (b"SUBJECT:  folded\n\tover lines", "folded over lines"),
        (b"Subject: =?utf-8?q?Caf=C3=A9?= and =?iso-8859-1?B?6Q==?=", "Café and é"),
        (b"Subject: =?utf-8?q?Caf?=\n =?utf-8?q?=C3=A9?=", "Café"),
        ("Subject: Привет".encode("koi8-r"), "Привет"),
        (b"Subject: =?nonsense?q?abc?=", "abc"),
        (b"Subject: =?utf-8?b?a?=", "=?utf-8?b?a?="),
        (b"Subject: \\ud800 =?utf-8?q?x?=", "? x"),  # half a surrogate pair, spelt out
        (b"Subject: " + b"=?a?q?" * 20_000, None),  # quadratic, were it not cut
    ],
)
def test_the_subject_is_the_first_line(tmp_path: Path, header: bytes, subject: str | None):
    first, _, rest = text_of(tmp_path, b"From: a@b.c", header, b"", b"body").partition("\n\n")
    assert rest == "body" and (first == subject or (subject is None and len(first) <= 2000))


def test_plain_text_is_preferred_and_attachments_are_counted(tmp_path: Path):
    alternative = multipart(
        b"alternative", part(b"plain", b"plain"), part(b"html", b"<b>rich</b>"), boundary=b"inner"
    )
    attached = b"Content-Disposition: attachment; filename=a.txt\n" + part(b"plain", b"attached")
    forwarded = b"Content-Type: message/rfc822\n\nSubject: inner\n\nforwarded"
    mail = b"Subject: s\n" + multipart(
        b"mixed", alternative, PNG, attached, forwarded, part(b"plain", b"footer")
    )
    assert text_of(tmp_path, mail) == "s\n\nplain\n\ninner\n\nforwarded\n\nfooter"
    assert read(tmp_path)[1].counters["attachments left out"] == 2


def test_html_is_taken_where_there_is_nothing_else(tmp_path: Path):
    empty = multipart(
        b"alternative", part(b"plain", b" \n"), part(b"html", b"<b>rich</b>"), boundary=b"inner"
    )
    (tmp_path / "a.eml").write_bytes(
        b"Subject: a < b\n" + multipart(b"mixed", empty, part(b"plain", b"x < y"))
    )
    [document], _ = read(tmp_path)
    assert document.html
    assert document.text == "<h1>a &lt; b</h1>\n<b>rich</b>\n<pre>x &lt; y</pre>"


def test_flowed_lines_are_joined(tmp_path: Path):
    body = b"a long \nline \nends\n> quoted \n> twice\n-- \nname"
    head = b"Subject: s\nContent-Type: text/plain; format=flowed\n"
    assert text_of(tmp_path, head, body) == "s\n\na long line ends\n> quoted \n> twice\n-- \nname"
    assert text_of(tmp_path, b"Subject: s\n", body).count("\n") == 8


def test_carriage_returns(tmp_path: Path):
    mail = b"Subject: s\n" + multipart(b"alternative", part(b"html", b"<p>"), part(b"plain", b"plain"))
    assert text_of(tmp_path, mail.replace(b"\n", b"\r\n")) == "s\n\nplain"


@pytest.mark.parametrize(
    ("mail", "text"),
    [
        (b"no header at all\n\nand more", "no header at all\n\nand more"),
        (b"\nbegins with an empty line", "begins with an empty line"),
        (b"Subject: s\nno empty line", "s\n\nno empty line"),
        (b"Subject: s\n" + multipart(b"mixed", part(b"plain", b"never closed"))[:-18], "s\n\nnever closed"),
        (b"Subject: s\nContent-Transfer-Encoding: base64\n\nnot base64!", None),
        (b"Subject: s\nContent-Type: nonsense\n\nbody", "s\n\nbody"),
        (b'Subject: s\nContent-Type: text/plain; charset="\xff\xfe"\n\nbody', "s\n\nbody"),
    ],
)
def test_mails_that_break_the_rules(tmp_path: Path, mail: bytes, text: str | None):
    found = text_of(tmp_path, mail)
    assert found == text or text is None


def nested(depth: int, lines: int = 0) -> bytes:
    heads = (
        b'Content-Type: multipart/mixed; boundary="%d"\n\n--%d\n' % (number, number)
        for number in range(depth)
    )
    return b"".join(heads) + b"\ninnermost\n" + b"\n" * lines


@pytest.mark.parametrize(
    "mail",
    [
        nested(21),
        nested(5_000),
        nested(300, lines=500_000),
        b"Subject: s\n" + multipart(b"mixed", *[part(b"plain", b"x")] * 1001),
        b"To: " + b"a@b.c, " * 100_000 + b"\n\nbody",
        b'Content-Type: text/plain; a="' + b";" * 100_000 + b'"\n\nbody',
    ],
)
def test_mails_made_to_be_slow_are_listed(tmp_path: Path, mail: bytes):
    assert read_one(tmp_path, "a.eml", mail) == ([], [("a.eml", "damaged mail")])
    assert "innermost" in text_of(tmp_path, nested(20), name="b.eml")


INNER = [b"From: a@b\nSubject: topic %d\n\nText %d.\n" % (number, number) for number in range(3)]
FORWARD = b"Content-Type: message/rfc822\n"


@pytest.mark.parametrize(
    "mail",
    [
        multipart(b"mixed", *(FORWARD + b"\n" + one for one in INNER)),
        multipart(b"mixed", *(FORWARD + b"Content-Disposition: attachment\n\n" + one for one in INNER)),
        multipart(
            b"mixed",
            *(FORWARD + b"Content-Transfer-Encoding: base64\n\n" + base64.encodebytes(one) for one in INNER),
        ),
        multipart(b"digest", *(b"\n" + one for one in INNER)),
        multipart(b"digest", *INNER),  # without the empty line that stands for no headers
        multipart(b"mixed", multipart(b"digest", *(b"\n" + one for one in INNER), boundary=b"inner")),
        FORWARD + b"\n" + INNER[0] + b"\n" + INNER[1].partition(b"\n\n")[2],
    ],
)
@pytest.mark.parametrize("name", ["a.eml", "a.mbox"])
def test_mails_within_mails_are_read_under_their_subjects(tmp_path: Path, mail: bytes, name: str):
    mail = b"Subject: outer\n" + mail
    if name == "a.mbox":
        mail = b"From x\n" + mail + b"\nFrom y\n" + mail
    texts, skipped = read_one(tmp_path, name, mail)
    assert not skipped and len(texts) == (2 if name == "a.mbox" else 1)
    for text in texts:
        lines = [line for line in text.splitlines() if line]
        assert lines[:4] in (
            ["outer", "topic 0", "Text 0.", "topic 1"],
            ["outer", "topic 0", "Text 0.", "Text 1."],
        )
        assert "From: a@b" not in text


def test_mails_within_mails_keep_their_form_and_end(tmp_path: Path):
    rich = FORWARD + b"\nSubject: a < b\n" + part(b"html", b"<b>rich</b>")
    (tmp_path / "a.eml").write_bytes(b"Subject: s\n" + multipart(b"mixed", part(b"plain", b"see"), rich))
    [document], log = read(tmp_path)
    assert document.html and document.text.endswith("<pre>a &lt; b</pre>\n<b>rich</b>")
    assert log.counters["attachments left out"] == 0
    deep = b"Subject: s\n" + FORWARD + b"\n" + (FORWARD + b"\n") * 5000 + b"\nend"
    assert read_one(tmp_path, "b.eml", deep) == ([], [("b.eml", "damaged mail")])


def test_a_mailbox(tmp_path: Path):
    mails = [
        b"From a@b Mon Jan  1 00:00:00 2024\nSubject: one\n\nIt says:\nFrom here\n\n>From me\n>>From you\n",
        b"From MAILER\nSubject: two\n\n",
        b"From x\n" + b"Subject: three\n" + multipart(b"mixed", part(b"plain", b"third"), PNG),
    ]
    (tmp_path / "a.mbox").write_bytes(b"\n".join(mails))
    documents, log = read(tmp_path)
    assert [(one.source, one.text) for one in documents] == [
        ("a.mbox#0", "one\n\nIt says:\nFrom here\n\nFrom me\n>From you\n\n"),
        ("a.mbox#2", "three\n\nthird"),
    ]
    assert [(one.source, one.reason) for one in log.skipped] == [("a.mbox#1", "no text in the mail")]
    assert log.counters["attachments left out"] == 1
