"""What of a page is its own text, on pages of the kinds that the web has. All of them are made up here."""

import itertools

import pytest

from leanpipe.corpus.extract.main_text import ExtractConfig, extract_main_text, is_plain

SENTENCES = (
    "The old mill by the river was built in the spring of 1871, when the valley had no road yet.",
    "It ground rye and barley for eleven villages, and its wheel could be heard from the church on a still evening.",
    "After the war the machines were sold, the roof fell in, and swallows nested under the beams.",
    "Last year a group of neighbors began to repair it, and they have already laid a new floor of oak.",
    "Whoever wants to help can come on any Saturday, with gloves and good shoes, at nine in the morning.",
    "They hope that the first flour will be ground in autumn, if the money lasts that long.",
)
TEXT = "".join(f"<p>{one} {other}</p>" for one, other in itertools.pairwise(SENTENCES))
MENU = "".join(
    f'<li class="menu-item"><a href="/{name}">{name.title()}</a></li>'
    for name in ("home", "news", "sports", "culture", "weather", "contact")
)
HEADER = f'<div id="header"><div class="logo"><a href="/">Valley Post</a></div><ul class="menu nav">{MENU}</ul></div>'
FOOTER = (
    '<div id="footer"><ul><li><a href="/imprint">Imprint</a></li><li><a href="/privacy">Privacy policy</a></li></ul>'
    "<p>Copyright 2024 Valley Post. All rights reserved.</p></div>"
)
ARTICLE = f'<div class="post entry"><h1 class="title">The mill turns again</h1><div class="entry-content">{TEXT}</div></div>'


def found(*parts: str, **settings) -> str:
    return extract_main_text(page(*parts), ExtractConfig(**settings)).text


FURNITURE = "".join(
    f'<meta property="og:{n}" content="{n}"><script src="/{n}.js"></script>' for n in range(9)
)


def page(*parts: str) -> str:
    """A page with as much in its head as those of the web have."""
    head = f"<head><title>T</title>{FURNITURE}</head>"
    html = f"<html>{head}<body><div class='wrapper'>{''.join(parts)}</div></body></html>"
    assert not is_plain(html)
    return html


AROUND = {
    "teasers": (
        '<div class="sidebar related-posts"><h3>Read more</h3><ul>'
        + "".join(
            f'<li><a href="/{n}"><img src="{n}.jpg">Ten ways to cook a trout {n}</a><p>It is easier than you think …</p></li>'
            for n in range(5)
        )
        + "</ul></div>",
        "Ten ways to cook",
    ),
    "cookies": (
        '<div class="cookie-notice banner"><p>We use cookies to give you the best experience on our site.</p>'
        '<a href="#" class="button">Accept all</a> <a href="/privacy">More information</a></div>',
        "We use cookies",
    ),
    "comments": (
        '<div id="comments" class="comments-area"><h3>3 comments</h3><ol class="commentlist">'
        + "".join(
            f'<li class="comment"><div class="comment-author"><a href="#">Reader {n}</a> says:</div>'
            f'<div class="comment-meta"><a href="#c{n}">3 May 2024 at 10:1{n}</a></div>'
            "<p>I saw it last week and liked it.</p>"
            '<div class="reply"><a href="#">Reply</a></div></li>'
            for n in range(3)
        )
        + "</ol></div>",
        "says:",
    ),
    "sharing": (
        '<div class="sharedaddy share-buttons"><h3>Share this:</h3><ul><li><a href="#">Click to share on Twitter</a></li>'
        '<li><a href="#">Click to share on Facebook</a></li></ul></div>',
        "Click to share",
    ),
    "newsletter": (
        '<div class="widget newsletter-signup"><h4>Newsletter</h4><form><p>Subscribe and miss nothing.</p>'
        '<input type="text"><input type="submit"></form></div>',
        "miss nothing",
    ),
    "paging": (
        '<div class="post-navigation"><a rel="prev" href="/1">Older: The ferry</a> <a rel="next" href="/2">Newer: The bridge</a></div>',
        "The ferry",
    ),
}

# Of these no name and no share of links tells what they are: rules for manuals keep them.
AROUND |= {
    "teasers with texts": (
        '<section class="latest-news"><h3>Latest</h3>'
        + "".join(
            f'<div class="item"><a href="/{n}"><h4>Ten ways to cook a trout {n}</h4></a><p>It is easier than you think, says '
            f"the cook of the inn, and it needs no more than {n} minutes in the oven.</p></div>"
            for n in range(5)
        )
        + "</section>",
        "Ten ways to cook",
    ),
    "long cookie notice": (
        '<div id="cc-window" class="cc-window"><span>We use cookies so that you get the best experience on our site, and to '
        "measure how many people read it. If you go on reading we take it that you agree to this. "
        '<a href="/p">More</a></span><button>OK</button></div>',
        "We use cookies",
    ),
    "author": (
        '<div class="author-bio"><img src="a.jpg"><p>Anna Miller writes on mills and on rivers for the Post, and has two dogs '
        "and a canoe that she built herself last winter.</p></div>",
        "two dogs",
    ),
}


@pytest.mark.parametrize("kind", AROUND)
def test_what_stands_around_an_article_goes_and_the_article_stays_whole(kind: str):
    part, phrase = AROUND[kind]
    text = found(HEADER, ARTICLE, part, FOOTER)
    assert "The mill turns again" in text
    assert all(sentence in text for sentence in SENTENCES)
    for noise in (phrase, "Weather", "Privacy policy", "All rights reserved"):
        assert noise not in text


def test_the_posts_of_a_forum_are_its_text():
    posts = "".join(
        f'<div class="post"><div class="postprofile"><a href="/u{n}">user{n}</a><br>Posts: {n}41</div>'
        f'<div class="postbody"><div class="content">{one} {other}</div></div></div>'
        for n, (one, other) in enumerate(itertools.pairwise(SENTENCES))
    )
    text = found(
        HEADER, f'<div id="page-body"><h2 class="topic-title">The old mill</h2>{posts}</div>', FOOTER
    )
    assert all(sentence in text for sentence in SENTENCES)
    assert "Weather" not in text and "All rights reserved" not in text


def test_the_description_in_a_shop_is_its_text():
    product = (
        '<div class="product"><h1>Hand mill No. 4</h1><div class="price">49,90 €</div>'
        f'<div class="product-description" itemprop="description">{TEXT}</div></div>'
    )
    basket = (
        '<div class="cart minicart"><a href="/cart">Your cart is empty</a> <a href="/login">Log in</a></div>'
    )
    others = '<div class="crosssell"><h3>Customers also bought</h3>' + "".join(
        f'<div class="product-teaser"><a href="/p{n}">Sieve {n}</a><span class="price">{n},90 €</span></div>'
        for n in range(1, 6)
    )
    text = found(HEADER, basket, product, others + "</div>", FOOTER)
    assert all(sentence in text for sentence in SENTENCES)
    assert "Your cart is empty" not in text and "Sieve 3" not in text


def test_a_page_of_a_manual_keeps_code_tables_and_lists_of_terms():
    body = (
        '<div class="section"><h2>4.2. The command</h2><p>The command <code>grind</code> takes a file and writes flour.</p>'
        "<pre>grind --fine rye.txt\n    --out flour.txt</pre>"
        "<dl><dt>--fine</dt><dd><p>Grinds it twice, and takes twice as long.</p></dd>"
        "<dt>--out FILE</dt><dd><p>Writes to a file instead of the terminal.</p></dd></dl>"
        "<table><tr><th>grain</th><th>seconds</th></tr><tr><td>rye</td><td>12</td></tr><tr><td>barley</td><td>15</td></tr></table>"
        "<p>Its exit status is 0 unless the stones are worn out.</p></div>"
    )
    text = found(f'<div class="document"><div class="body" role="main">{body}</div></div>')
    assert "grind --fine rye.txt\n    --out flour.txt" in text
    assert "--out FILE" in text and "rye | 12" in text and "exit status is 0" in text


def test_comments_come_back_on_request_without_their_buttons():
    text = found(HEADER, ARTICLE, AROUND["comments"][0], FOOTER, comments=True)
    assert text.count("I saw it last week and liked it.") == 3
    assert "Reply" not in text


def test_only_a_page_whose_blocks_may_be_text_as_well_as_not_is_unsure():
    sure = extract_main_text(page(HEADER, ARTICLE, FOOTER), ExtractConfig())
    assert not sure.unsure


def test_a_page_is_scored_alike_whatever_was_read_before_it():
    html = page(HEADER, ARTICLE, AROUND["teasers"][0], FOOTER)
    first = extract_main_text(html, ExtractConfig())
    for number in range(50):
        extract_main_text(
            page(f'<div class="other{number} menu"><p id="x{number}">{TEXT}</p></div>'), ExtractConfig()
        )
    assert extract_main_text(html, ExtractConfig()) == first
