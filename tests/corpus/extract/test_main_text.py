import importlib.util

import pytest

from leanpipe.core.errors import UserError
from leanpipe.corpus.extract import main_text as extract
from leanpipe.corpus.extract.main_text import ExtractConfig, Extracted, extract_main_text

METHODS = ("blocks", "resiliparse", "selectolax", "trafilatura")
BEES = "Bees are flying insects that make honey and pollinate the flowers of the meadow in summer. " * 5
PAGE = """<html><head><title>T</title><style>p {{}}</style><script>alert("<p>1</p>")</script></head><body>
<nav><ul><li><a href="/">Home</a></li><li><a href="/buy">Buy now</a></li></ul></nav>
<div class="site-menu"><a href="/a">Shop</a> <a href="/b">Contact us</a></div>
<article><h1>Bees</h1><p>{first}</p><!-- a comment --><p>Second   paragraph &amp; more, a&nbsp;b &lt;i&gt;.</p>
<pre>def f():
    if x:
        return 1</pre><p>{first}</p>{rest}</article>
<div id="footer">Copyright nobody. Cookies.</div></body></html>"""


def found(html: str, **settings) -> Extracted:
    return extract_main_text(html, ExtractConfig(**settings))


def installed(method: str) -> str:
    if method in ("selectolax", "trafilatura") and not importlib.util.find_spec(method):
        pytest.skip(f"{method} is not installed")
    return method


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_the_text_and_keeps_code(method: str):
    text, parser, rescued, fault, _ = found(PAGE.format(first=BEES, rest=""), method=installed(method))
    assert (parser, rescued, fault) == (method, False, None)
    assert "Bees are flying insects" in text and "Second paragraph & more" in text and "<i>" in text
    assert "def f():\n    if x:\n        return 1" in text
    assert "alert" not in text and "a comment" not in text


@pytest.mark.parametrize("method", ["blocks", "resiliparse", "trafilatura"])
def test_what_is_not_the_pages_own_goes(method: str):
    text = found(PAGE.format(first=BEES, rest=""), method=installed(method)).text
    for noise in ("Buy now", "Cookies"):
        assert noise not in text


def test_blocks_word_for_word():
    rest = """<ul><li>one</li><li><p>two</p></li></ul>
        <table><tr><th>Name</th><th>Size</th></tr><tr><td>int</td><td>4 <b>bytes</b></td></tr></table>
        <p>a line<br>and<br/> another</p>"""
    assert found(PAGE.format(first=BEES, rest=rest)).text == "\n\n".join(
        (
            "Bees",
            BEES.strip(),
            "Second paragraph & more, a\u00a0b <i>.",
            "def f():\n    if x:\n        return 1",
            BEES.strip(),
            "- one\n- two",
            "Name | Size\nint | 4 bytes",
            "a line\nand\nanother",
        )
    )


@pytest.mark.parametrize(
    ("language", "sentence"),
    [
        ("zh", "蜜蜂是一种会飞行的昆虫，它们采集花蜜，为花朵授粉，并在蜂巢中酿造蜂蜜。　"),
        ("ar", "النحل حشرات طائرة تصنع العسل وتلقح الأزهار في الحقول خلال فصل الصيف. "),
        ("fa", "زنبورها حشراتی هستند که می‌توانند پرواز کنند و عسل بسازند. "),
        ("hi", "मधुमक्खियाँ उड़ने वाले कीड़े हैं जो शहद बनाती हैं। "),
    ],
)
def test_other_scripts_stay_whole(language: str, sentence: str):
    page = PAGE.format(first=sentence * 8, rest="")
    assert (sentence * 8).strip() in found(page).text
    assert "Shop" not in found(page).text


COMMENTED = PAGE.format(first=BEES, rest='<div class="comments"><p>I like bees too, says Ann.</p></div>')
TABLED = PAGE.format(first=BEES, rest="<table><tr><td>wings</td><td>four</td></tr></table>")


def test_readers_comments_are_kept_on_request():
    assert "says Ann" not in found(COMMENTED).text
    assert "says Ann" in found(COMMENTED, comments=True).text


@pytest.mark.parametrize("method", ["blocks", "resiliparse", "trafilatura"])
def test_tables_are_left_out_on_request(method: str):
    assert "wings" in found(TABLED, method=installed(method)).text
    assert "wings" not in found(TABLED, method=method, tables=False).text
    assert "Bees are" in found(TABLED, method=method, tables=False).text


def test_the_main_element_is_believed():
    page = f"<div><p>{BEES}</p></div><main><p>{BEES * 2}</p><p>end</p></main><div><p>outside {BEES}</p></div>"
    assert found(page).text == f"{(BEES * 2).strip()}\n\nend"


def test_an_element_that_holds_the_page_stays_whatever_its_name():
    page = f'<div class="has-sidebar menu-open"><p>{BEES * 6}</p><p><a href="#">{BEES * 4}</a></p></div>'
    assert BEES.strip() in found(page).text


def test_ids_made_of_headings_say_nothing():
    section = '<div class="section" id="sql-comment"><h2>COMMENT</h2><p>Defines a comment.</p></div>'
    assert "Defines a comment." in found(f"<p>{BEES}</p>{section}<p>{BEES}</p>").text


def test_link_lists_around_the_text_are_trimmed_but_a_page_of_links_stays():
    links = "".join(f'<li><a href="/{n}">Another story about bees {n}</a></li>' for n in range(30))
    text = found(f"<ul>{links}</ul><h2>Bees</h2><p>{BEES}</p><ol>{links}</ol>").text
    assert text == f"Bees\n\n{BEES.strip()}"
    assert found(f"<h1>Contents</h1><ul>{links}</ul>").text.count("Another story") == 30


def test_a_page_whose_text_the_rules_take_for_noise_gives_all_of_it():
    extracted = found("<html><body><footer>Only a footer</footer></body></html>")
    assert extracted == ("Only a footer", "everything", True, None, False)


FURNITURE = "<meta property='og:title' content='Bees'><script src='/a.js'></script>" * 8
MENU = "".join(f'<li class="menu-item"><a href="/{n}">Menu {n}</a></li>' for n in range(8))


@pytest.mark.parametrize("furniture", ["", FURNITURE], ids=["manual", "web"])
def test_what_a_page_says_is_found_by_rules_and_by_the_model_in_one_form(furniture: str):
    """Pages of the two kinds take different ways, and come out alike."""
    rest = f"""<ul><li>one thing that bees are said to need in winter</li></ul><p>{BEES}</p>
        <table><tr><th>Part</th><th>Number</th></tr><tr><td>wings</td><td>4 <b>of them</b></td></tr></table><p>{BEES}</p>"""
    html = PAGE.format(first=BEES, rest=rest).replace("</head>", f"{furniture}</head>")
    html = html.replace("<body>", f'<body><ul class="menu nav">{MENU}</ul>')
    assert extract.is_plain(html) == (not furniture)
    text = found(html).text
    assert "- one thing that bees are said to need in winter\n\n" in text
    assert "Part | Number\nwings | 4 of them\n\n" in text and "def f():\n    if x:" in text
    assert "Menu 3" not in text and "Cookies" not in text


def test_white_space_and_scripts_are_no_text_that_could_be_lost(monkeypatch: pytest.MonkeyPatch):
    """A page of which enough was found is read once, however far apart its words stand."""
    read: list[str] = []
    body_of = extract.body_of
    monkeypatch.setattr(extract, "body_of", lambda html: read.append(html) or body_of(html))
    apart = f"{' ' * 20_000}<div>\n</div>" * 20
    html = PAGE.format(first=BEES, rest=apart).replace("</head>", f"{FURNITURE}</head>")
    assert found(html).text.count("Bees are flying") == 10 and len(read) == 1


@pytest.mark.parametrize("page", ["", "   ", "<", "<html></html>", "<script>x</script>", "<!-- c -->", "<p"])
@pytest.mark.parametrize("method", METHODS)
def test_a_page_without_text_is_empty_and_not_lost(page: str, method: str):
    extracted = found(page, method=installed(method))
    assert extracted.text.strip(" <") == "" and not extracted.fault


def test_text_that_no_parser_sees_is_a_fault():
    page = f"<html><head><title>An unclosed title. {BEES}"
    extracted = found(page)
    assert extracted.text == "" and extracted.fault
    assert extracted.fault == ("extract.nothing", len(page))


def test_what_browsers_without_scripts_show_is_not_lost():
    assert found("<frameset><frame src=a><noframes>Hello frames</noframes></frameset>").text == "Hello frames"
    assert found("<body><noscript>Hello there</noscript></body>").text == "Hello there"


def test_a_page_that_is_too_long_is_a_fault_and_is_not_parsed():
    page = "<p>word</p>" * 100
    assert found(page, max_characters=1100).text.startswith("word")
    assert found(page, max_characters=1099).fault == ("extract.max_characters", 1100)


def test_min_share_decides_what_is_too_little():
    menu = '<div class="menu"><a href="#">' + "Many links and words of a menu. " * 30 + "</a></div>"
    page = f"<p>Short.</p>{menu}"
    assert found(page, min_share=0).text == "Short."
    assert found(page, min_share=0.5).parser == "everything"
    assert "words of a menu" in found(page, min_share=0.5).text


@pytest.mark.parametrize("method", METHODS)
def test_pages_that_lxml_loses_are_read_by_the_next_parser(method: str):
    page = "<div>" * 300 + f"<p>{BEES}</p>" + "</div>" * 300  # lxml gives nothing at 255
    extracted = found(page, method=installed(method))
    assert extracted.text == BEES.strip()
    assert extracted.rescued == (method == "trafilatura")


DEEP = {
    "closed": ("<div>", "</div>"),
    "open": ("<div>", ""),
    "inline": ("<b>", "</b>"),
    "tables": ("<table><tr><td>", ""),
    "lists": ("<ul><li>", ""),
}


@pytest.mark.parametrize("nest", DEEP)
@pytest.mark.parametrize("method", METHODS)
def test_a_page_nested_100_000_deep_is_read_in_bounded_time(method: str, nest: str):
    # In quadratic time this would not end before the time-out of the tests.
    start, end = DEEP[nest]
    page = f"<html><body>{start * 100_000}the bottom{end * 100_000}"
    extracted = found(page, method=installed(method))
    assert extracted.text.strip("- ") == "the bottom"
    assert extracted.rescued == (method != "blocks")


@pytest.mark.parametrize(
    "piece", ["<script>", "<!--", "<pre>", "<svg>", '<"', "<a>", "<p title='<script>'>", "&", "<li>x"]
)
def test_a_page_of_one_thing_takes_linear_time(piece: str):
    found(piece * (500_000 // len(piece)) + "<p>end</p>")


def test_markup_inside_silent_elements_is_no_page():
    svg = (
        "<svg><title>icon</title><!-- <svg> --><svg></svg><foreignObject><div>no</div></foreignObject></svg>"
    )
    assert found(f"<div><p>{BEES}{svg}yes</p></div><p>end</p>").text == f"{BEES}yes\n\nend"
    script = '<script>if (a < b) { x = "<script>" }</script>'
    assert found(f"<p>{BEES}</p>{script}<p>end</p>").text == f"{BEES.strip()}\n\nend"


@pytest.mark.parametrize("method", METHODS)
def test_halves_of_surrogate_pairs_are_no_error(method: str):
    page = PAGE.format(first=f"\ud83d\ude00 \ud800 {BEES}", rest="")
    assert "😀 \ufffd Bees are flying" in found(page, method=installed(method)).text


@pytest.mark.parametrize("method", ["selectolax", "trafilatura"])
def test_a_method_whose_package_is_missing_is_named(method: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "selectolax.lexbor", None)
    monkeypatch.setitem(__import__("sys").modules, "trafilatura", None)
    with pytest.raises(UserError, match=rf"extract.method is {method}.*pip install 'leanpipe\[{method}\]'"):
        found("<p>x</p>", method=method)


def test_depth_counts_only_what_nests():
    assert not extract._is_deep("<br><p>x<li>y<img>" * 2000)
    assert not extract._is_deep("<div>x</div>" * 2000)
    assert extract._is_deep("<DIV>" * 1001)
    assert not extract._is_deep("<div>" * 1000)
