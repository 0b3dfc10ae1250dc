import pytest

from leanpipe.text.extract import main_text
from leanpipe.text.normalise import normalise

UNTOUCHED = [
    "def f(x):\n\tif x:\n        return  x   # two  spaces\n\n\nclass A: ...",
    "| a   | b |\n| --- | --- |",
    "“Curly” quotes — dashes … and the ﬁ ligature",
    "Ｆｕｌｌ　ｗｉｄｔｈ カタカナ ｶﾀｶﾅ",
    "می‌خواهم",  # a zero-width non-joiner, which Persian spells with
    "👩‍👩‍👧 family",  # zero-width joiners
    "Tiếng Việt, العربية, עברית, हिन्दी, ไทย, 中文",
    "&lt;b&gt; in an article about HTML",
]


@pytest.mark.parametrize("text", UNTOUCHED)
def test_what_carries_meaning_stays(text: str):
    assert normalise(text) == text


@pytest.mark.parametrize(
    "text", ["naïve café – “quoted”", "Straße, Öl und Übung", "Привет, мир", "日本語の文章です"]
)
@pytest.mark.parametrize("times", [1, 2])
def test_mojibake_is_undone(text: str, times: int):
    broken = text
    for _ in range(times):
        broken = broken.encode().decode("sloppy-windows-1252")
    assert broken != text
    assert normalise(broken) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("e\u0301", "é"),
        ("a\r\nb\rc\u2028d\x0ce", "a\nb\nc\nd\ne"),
        ("a\x00b\x07c\ufeffd\u00ade\u202ef", "abcdef"),
        ("a\u00a0b\u2003c", "a b c"),
        ("a  \t\nb \n", "a\nb"),
        ("a\n\n\n\n\n\nb", "a\n\n\nb"),
        ("a\n \n \n \n \n b", "a\n\n\n b"),
        ("\n\n  indented", "  indented"),
        ("\ud800 alone", "\ufffd alone"),
        ("\ud83d\ude00 pair", "😀 pair"),
        (" \t\n ", ""),
        ("", ""),
    ],
)
def test_loose_ends_go(text: str, expected: str):
    assert normalise(text) == expected


@pytest.mark.parametrize("text", [*UNTOUCHED, "a\r\r\nb\x85c", "x \u00a0\n\u2028\n\n\n\ny", "cafÃ© e\u0301"])
def test_normal_text_is_normal(text: str):
    assert normalise(normalise(text)) == normalise(text)


def test_long_runs_of_spaces_take_linear_time():
    # In quadratic time this would not end before the time-out of the tests.
    assert normalise("a" + " " * 400_000 + "b" + "\n" * 400_000 + "c").startswith("a  ")


PAGE = """<html><head><title>T</title><style>p {{}}</style><script>alert(1)</script></head><body>
<nav><ul><li><a href="/">Home</a></li><li><a href="/buy">Buy now</a></li></ul></nav>
<main><article><h1>Bees</h1><p>{first}</p><p>Second   paragraph &amp; more.</p>
<pre>def f():
    return 1</pre></article></main>
<footer>Copyright nobody. Cookies.</footer></body></html>"""


def test_html_gives_its_main_content():
    text = main_text(PAGE.format(first="Bees are flying insects that make honey and pollinate flowers. " * 5))
    assert "Bees are flying insects" in text and "Second paragraph & more." in text
    assert "def f():\n    return 1" in text
    for noise in ("alert", "Buy now", "Cookies", "<"):
        assert noise not in text


def test_html_without_main_content_gives_all_its_text():
    assert "Only a footer" in main_text("<html><body><footer>Only a footer</footer></body></html>")


@pytest.mark.parametrize("page", ["", "   ", "<", "<html></html>", "<script>x</script>", "<!-- c -->", "<p"])
def test_empty_html_gives_nothing(page: str):
    assert main_text(page).strip(" <") == ""


def test_deep_html_is_read():
    depth = 2000  # lxml gives nothing at 255
    assert "the bottom" in main_text("<div>" * depth + "the bottom" + "</div>" * depth)
