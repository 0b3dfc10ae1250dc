"""Bytes to text, whoever wrote them: the first article of the Universal Declaration of Human Rights in old encodings."""

import pytest

from leanpipe.corpus.readers.encodings import decode, is_binary, wide_encoding
from tests.corpus.reading import read, read_one

RUSSIAN = (
    "Все люди рождаются свободными и равными в своем достоинстве и правах. Они наделены разумом и совестью."
)
JAPANESE = "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。"
CHINESE = "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。"
TAIWANESE = "人人生而自由，在尊嚴和權利上一律平等。他們賦有理性和良心，並應以兄弟關係的精神相對待。"
KOREAN = "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다."
GREEK = "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα."
HEBREW = "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם. כולם חוננו בתבונה ובמצפון."
ARABIC = "يولد جميع الناس أحرارا متساوين في الكرامة والحقوق. وقد وهبوا عقلا وضميرا."
THAI = "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ"
CZECH = "Všichni lidé rodí se svobodní a sobě rovní co do důstojnosti a práv. Jsou nadáni rozumem a svědomím."
GERMAN = "Alle Menschen sind frei und gleich an Würde und Rechten geboren, im Geiste der Brüderlichkeit."
FRENCH = (
    "Tous les êtres humains naissent libres et égaux en dignité. Ils sont doués de raison – « l’esprit »."
)
OLD = [
    *((RUSSIAN, one) for one in ("koi8-r", "cp1251", "cp866", "iso8859-5", "mac-cyrillic")),
    *((JAPANESE, one) for one in ("shift_jis", "euc-jp", "iso2022_jp")),
    (CHINESE, "gb18030"),
    (TAIWANESE, "big5"),
    (KOREAN, "euc-kr"),
    (GREEK, "cp1253"),
    (HEBREW, "cp1255"),
    (ARABIC, "cp1256"),
    (THAI, "tis-620"),
    (CZECH, "cp1250"),
    (CZECH, "iso8859-2"),
    (GERMAN, "latin-1"),
    (FRENCH, "cp1252"),
]
WIDE = ("utf-16", "utf-16-le", "utf-16-be", "utf-32")


@pytest.mark.parametrize(("text", "encoding"), OLD)
def test_old_encodings_are_told_by_their_bytes(tmp_path, text: str, encoding: str):
    data = text.encode(encoding)
    assert decode(data).text == text
    assert decode(b"An introduction in plain ASCII comes first. " * 100 + data).text.endswith(text)
    rows = b"".join(b'{"text": "' + data + b'"}\n' for _ in range(3))
    assert read_one(tmp_path, "a.jsonl", rows) == ([text] * 3, [])
    assert read_one(tmp_path, "a.csv", b"id,text\n" + b'1,"' + data + b'"\n') == ([text], [])


def test_the_encoding_of_the_file_helps_with_lines_that_are_too_short_to_tell(tmp_path):
    lines = [RUSSIAN, "Да", RUSSIAN, "Нет"]
    data = "\n".join(lines).encode("koi8-r")
    assert read_one(tmp_path, "a.txt", data, text_files="lines") == (lines, [])
    assert decode("Да".encode("koi8-r")).text != "Да"


@pytest.mark.parametrize("encoding", WIDE)
@pytest.mark.parametrize("text", [RUSSIAN, KOREAN, GREEK, HEBREW, GERMAN, f"{CHINESE}\n{JAPANESE}\n"])
def test_wide_characters(tmp_path, text: str, encoding: str):
    data = text.encode(encoding)
    assert decode(data).text == text and not is_binary(data)
    assert decode(data).repaired is (encoding not in ("utf-16", "utf-32"))
    rows = f'{{"text": "{text.strip()}"}}\n'.replace(f"\n{JAPANESE}", "") * 3
    [line] = {row.split('"')[3] for row in rows.splitlines()}
    assert read_one(tmp_path, "a.jsonl", rows.encode(encoding)) == ([line] * 3, [])
    assert read_one(tmp_path, "a.csv", f"text;n\n{line};1\n".encode(encoding)) == ([line], [])
    assert read_one(tmp_path, "a.txt", f"{line}\n\nend".encode(encoding), text_files="lines") == (
        [line, "end"],
        [],
    )


@pytest.mark.parametrize(
    ("data", "text", "repaired"),
    [
        (b"x", "x", False),
        ("\ufeffnaïve".encode(), "naïve", False),
        (b"na\xefve \x93quoted\x94", "naïve “quoted”", True),
        ("naïve ".encode() + b"na\xefve", "naïve naïve", True),  # one bad byte spoils nothing else
        (f"{RUSSIAN} ".encode() + b"\xff" + RUSSIAN.encode(), f"{RUSSIAN} ÿ{RUSSIAN}", True),
        ("naïve\n".encode() + b"na\xefve\n" + "Привет\n".encode(), "naïve\nnaïve\nПривет\n", True),
        (b"\xff\xfea", "\ufffd", True),  # half a UTF-16 character
        (b"stray\x00 byte in a long enough text", "stray\x00 byte in a long enough text", False),
        (b"\x1b[1mbold\x1b$ and no Japanese", "\x1b[1mbold\x1b$ and no Japanese", False),
    ],
)
def test_mixed_and_damaged(tmp_path, data: bytes, text: str, repaired: bool):
    assert decode(data) == (text, repaired)
    (tmp_path / "a.txt").write_bytes(data)
    [document], log = read(tmp_path)
    assert document.text == text
    assert log.repaired == (["a.txt"] if repaired else []) and log.counters["documents repaired"] == repaired


@pytest.mark.parametrize(
    "data",
    [
        b"\0" * 100,
        bytes(range(256)),
        b"\x7fELF\2\1\1" + b"\0\1\0" * 50,
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\1",
    ],
)
def test_binary(data: bytes):
    assert is_binary(data) and wide_encoding(data) is None


@pytest.mark.parametrize(
    ("page", "declared"),
    [
        ('<meta charset="windows-1251">Привет', None),
        ("<meta http-equiv=content-type content='text/html; charset=windows-1251'>Привет", None),
        ('<?xml version="1.0" encoding="windows-1251"?><p>Привет', None),
        ("<p>Привет", "windows-1251"),
        ('<meta charset="utf-8"><p>Привет', "windows-1251"),  # a header counts for more than the page
        ('<meta charset="nonsense"><p>Привет', "cp1251"),
    ],
)
def test_what_is_declared_is_believed(page: str, declared: str | None):
    assert decode(page.encode("cp1251"), declared, html=True) == (page, False)


@pytest.mark.parametrize(
    "declared", ["utf-8", "euc-jp", "punycode", "base64", "nonsense", "utf-7", "rot13", "", "é", "a\0b"]
)
def test_what_is_declared_wrongly_is_not(declared: str):
    assert decode(RUSSIAN.encode("koi8-r"), declared).text == RUSSIAN
    assert decode(RUSSIAN.encode(), declared) == (RUSSIAN, False)


def test_latin_1_on_the_web_means_windows_1252():
    assert decode(b"it\x92s", "iso-8859-1").text == "it’s"


@pytest.mark.parametrize(
    "unit", [b"\xe9 ", b"\x80", b"\x81\n", "é".encode() + b"\xff", b"\x00\xff", b"\x1b$B"]
)
def test_any_bytes_are_decoded_in_linear_time(unit: bytes):
    assert decode(unit * 500_000).text
