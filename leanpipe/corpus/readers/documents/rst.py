"""reStructuredText (.rst), by docutils, which may open no file and pass no raw markup through.

Sphinx's directives and roles, which docutils does not know, are read for the text in them. Tables of contents, indexes and
what is generated from code are left out.
"""

import re
from typing import Any

from leanpipe.corpus.readers.documents.limits import Limits
from leanpipe.corpus.readers.documents.markup import text_of_markup
from leanpipe.corpus.readers.encodings import decode

_SETTINGS = {
    "file_insertion_enabled": False,
    "raw_enabled": False,
    "_disable_config": True,
    "report_level": 5,  # what is written wrongly is no part of the text
    "halt_level": 5,
    "math_output": "LaTeX",
    "syntax_highlight": "none",
    "embed_stylesheet": False,
    "smart_quotes": False,
    "doctitle_xform": False,
}
_DIRECTIVE = re.compile(r"^[ \t]*\.\.[ \t]+(?:\|[^|\n]+\|[ \t]+)?([A-Za-z][\w:+.-]*)::", re.MULTILINE)
_ROLE = re.compile(r":([A-Za-z][\w:+.-]*):`|`:([A-Za-z][\w:+.-]*):")
_WITH_TARGET = re.compile(r"(.+?)\s*(?<!\\)<[^<>]+>\Z", re.DOTALL)  # text <target>
_SILENT = re.compile(  # say nothing themselves, or hold what is no text
    r"(?:toctree|index|contents|sectnum|header|footer|meta|date|image|highlight|tabularcolumns|testsetup|testcleanup"
    r"|graphviz|digraph|graph|uml|plot|raw|include|literalinclude|default-domain|program|only|ifconfig|cssclass"
    r"|codeauthor|sectionauthor|moduleauthor|(?:py:)?(?:current)?module|auto\w+|autosummary)\Z"
)
_CODE = re.compile(
    r"(?:code-block|sourcecode|highlight\w*|parsed-literal|prompt|doctest|testcode|testoutput|productionlist)\Z"
)


def text_of_rst(data: bytes, limits: Limits) -> str:
    """Find the text of a reStructuredText document."""
    from docutils.core import publish_parts

    source = decode(data).text
    _know(source)
    return text_of_markup(publish_parts(source, writer="html5", settings_overrides=_SETTINGS)["html_body"])


def _know(source: str) -> None:
    """Tell docutils how to read the directives and roles of `source` that it does not know, or that say nothing."""
    from docutils.parsers.rst import directives, roles
    from docutils.parsers.rst.languages import en

    for name in {match.lower() for match in _DIRECTIVE.findall(source)}:
        if _SILENT.match(name):
            directives.register_directive(name, _silent())
        elif _CODE.match(name):  # docutils has two of them, which refuse Sphinx's options
            directives.register_directive(name, _code())
        elif name not in en.directives:
            directives.register_directive(name, _content())
    for name in {(before or after).lower() for before, after in _ROLE.findall(source)}:
        if name not in en.roles:
            roles.register_local_role(name, _role)


def _role(
    name: str, rawtext: str, text: str, lineno: int, inliner: Any, options: Any = None, content: Any = None
) -> tuple[list[Any], list[Any]]:
    """The words that a role shows: without its target, and of ~a.b.c the last."""
    from docutils import nodes
    from docutils.utils import unescape

    shown = unescape(text)
    if found := _WITH_TARGET.match(shown):
        shown = found[1]
    elif shown.startswith("~"):
        shown = shown.rpartition(".")[2].lstrip("~")
    return [nodes.inline(rawtext, shown.lstrip("!"))], []


class _AnyOptions:
    """Takes every option, whatever its name."""

    def __getitem__(self, name: str) -> Any:
        from docutils.parsers.rst import directives

        return directives.unchanged

    def __bool__(self) -> bool:
        return True


def _directive(run: Any) -> type:
    from docutils.parsers.rst import Directive

    given = {"has_content": True, "optional_arguments": 1, "final_argument_whitespace": True}
    return type("UnknownDirective", (Directive,), {**given, "option_spec": _AnyOptions(), "run": run})


def _silent() -> type:
    return _directive(lambda self: [])


def _code() -> type:
    def run(self: Any) -> list[Any]:
        from docutils import nodes

        text = "\n".join(self.content)
        return [nodes.literal_block(text, text)]

    return _directive(run)


def _content() -> type:
    """What it is called with as a paragraph, then what it holds."""

    def run(self: Any) -> list[Any]:
        from docutils import nodes

        box = nodes.container()
        for argument in self.arguments:
            box += nodes.paragraph(argument, "", *self.state.inline_text(argument, self.lineno)[0])
        self.state.nested_parse(self.content, self.content_offset, box, match_titles=1)
        return [box]

    return _directive(run)
