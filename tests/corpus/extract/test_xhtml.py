"""XHTML: elements that close themselves must not swallow the page."""

import pytest

from leanpipe.corpus.extract.main_text import ExtractConfig, extract_main_text
from leanpipe.corpus.extract.xhtml import close_empty_elements

TEXT = "The famous pilot followed a proud clock under the village, which was not easy at all. " * 4
XML = "<?xml version='1.0' encoding='UTF-8'?>\n<html xmlns='http://www.w3.org/1999/xhtml'>"


@pytest.mark.parametrize("method", ["blocks", "resiliparse", "selectolax", "trafilatura"])
@pytest.mark.parametrize("start", [XML, "<!DOCTYPE html><html>"])
@pytest.mark.parametrize(
    "head",
    [
        "<title/>",
        "<TITLE />",
        "<title>T</title><script src='a.js'/>",
        "<title>T</title><script src='a.js' defer/><script>let a = 1;</script>",
        "<title>T</title><style type='text/css' />",
        "<title>T</title><noscript/>",
    ],
)
def test_the_text_of_a_page_is_found_behind_an_element_that_closes_itself(head: str, start: str, method):
    page = f"{start}<head>{head}</head><body><p>{TEXT}</p><p>Next. {TEXT}</p></body></html>"
    text = extract_main_text(page, ExtractConfig(method=method)).text
    assert text.count("famous pilot") == 8 and "let a" not in text and "</" not in text


@pytest.mark.parametrize("element", ["textarea", "iframe", "xmp"])
def test_the_text_behind_an_empty_field_is_no_markup(element: str):
    page = (
        f"{XML}<head><title>T</title></head><body><{element}/><p>{TEXT}</p><p>Next. {TEXT}</p></body></html>"
    )
    assert "<" not in extract_main_text(page, ExtractConfig()).text


def test_a_link_that_closes_itself_makes_no_link_of_the_page():
    page = f"{XML}<head><title>T</title></head><body><p><a id='top'/>{TEXT}</p><div class='menu'/><p>{TEXT}</p></body></html>"
    assert extract_main_text(page, ExtractConfig()).text.count("famous pilot") == 8


@pytest.mark.parametrize(
    "page",
    [
        "<p>1 /> 2 <br/> <img src='a>b' alt=\"c/>\"/>",
        f"{XML}<br/><img src='a'/><hr class=\"x\" />",
        "<script src=a/>let a = 1;</script>",  # the slash belongs to the address
        "<script src='a'/>let a = 1;</script>",  # as browsers read it, there is an end tag
        "<div/><a name='x'/>",  # as browsers read HTML
    ],
)
def test_other_pages_stay_as_they_are(page: str):
    assert close_empty_elements(page) == page
