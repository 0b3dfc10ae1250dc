from leanpipe.corpus.extract.block_features import Ancestors
from leanpipe.corpus.extract.html_page import HtmlPage
from leanpipe.corpus.extract.tags import CODE, NAMES, read_tags


def names(html: str) -> list[str]:
    tags = read_tags(html.encode())
    return [
        ("/" if delta < 0 else "") + ("", *NAMES)[code]
        for code, delta in zip(tags.code, tags.delta, strict=True)
    ]


def test_every_name_of_a_tag_is_told_from_every_other():
    for name in NAMES:
        for written in (f"<{name}>", f'<{name} class="x">', f"</{name}>"):
            assert names(written) == ["/" * written.startswith("</") + name]


def test_what_only_begins_like_a_tag_is_another():
    assert names("<divx><pp><h7><b></hr2>") == ["", "", "", "", "/"]


def test_tags_within_scripts_and_comments_are_none():
    html = "<p>a</p><script>if (a < b) { '<p>' }</script><!-- <div> <script> --><p>b</p>"
    assert names(html) == ["p", "/p", "script", "/script", "", "p", "/p"]
    assert HtmlPage(html).render_all() == "a\n\nb"


def test_a_comment_or_script_that_does_not_end_takes_the_rest():
    assert HtmlPage("<p>a</p><!-- <p>b</p>").render_all() == "a"
    assert HtmlPage("<p>a</p><script><p>b</p>").render_all() == "a"


def test_two_line_breaks_part_blocks_and_one_does_not():
    page = HtmlPage("<div>a<br>b<br><br>c<br> <br>d</div>")
    assert page.render_all() == "a\nb\n\nc\n\nd"
    assert len(page.first_tag) == 3


def test_elements_know_what_is_around_them_and_where_they_end():
    page = HtmlPage("<body><div><p>a</p><ul><li>b</li></ul></div><p>c</p></body>")
    ancestors = Ancestors(page)
    around = ancestors.starts[ancestors.around(page.first_tag, up=1)]
    assert [NAMES[code - 1] for code in page.tags.code[around]] == ["div", "ul", "body"]
    div = int((page.tags.code == CODE["div"]).argmax())
    end = ancestors.end_of[div]
    assert page.tags.code[end] == CODE["div"] and page.tags.delta[end] == -1


def test_pages_that_are_not_well_nested_are_read():
    for html in ("</div></p>a</div>", "<div><p>a", "<p>a</p></div></div><div>b"):
        page = HtmlPage(html)
        assert "a" in page.render_all()
        ancestors = Ancestors(page)
        assert (ancestors.ends < len(page.tags.code)).all()
