"""Markdown as one HTML file that needs nothing beside it: pictures are in it, and nothing in it is fetched or run."""

import base64
from collections.abc import Mapping
from pathlib import Path

_KINDS = {".png": "image/png", ".svg": "image/svg+xml", ".jpg": "image/jpeg"}
_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --link: #2a6db0; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 2rem 1.5rem 5rem; max-width: 62rem; }
h1 { font-size: 1.8rem; line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
.table { overflow-x: auto; margin: 1rem 0; } table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; text-align: left; }
thead th { border-bottom-width: 2px; white-space: nowrap; } tbody tr:nth-child(even) { background: var(--soft); }
td[style*="right"], th[style*="right"] { font-variant-numeric: tabular-nums; white-space: nowrap; }
img { max-width: 100%; background: white; } a { color: var(--link); }
blockquote { margin: 1rem 0; padding: .6rem 1rem; border-left: 4px solid var(--link); background: var(--soft); }
pre { overflow-x: auto; background: var(--soft); padding: .6rem; } code { overflow-wrap: anywhere; font-size: .85em; }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def html_page(title: str, text: str, pictures: Mapping[str, Path]) -> str:
    """Render Markdown with the pictures that it names, by the names that it calls them; HTML in it is shown as text."""
    from html import escape

    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    inlined = {name: _data(path) for name, path in pictures.items()}
    # Pictures that are not given, such as one on somebody's server, are left out: nothing is fetched.
    tokens = parser.parse(text)
    for token in tokens:
        for child in token.children or ():
            if child.type == "image":
                child.attrSet("src", inlined.get(str(child.attrGet("src")), "data:,"))
    body = parser.renderer.render(tokens, parser.options, {})
    body = body.replace("<table>", '<div class="table"><table>').replace("</table>", "</table></div>")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )


def _data(path: Path) -> str:
    return f"data:{_KINDS[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"
