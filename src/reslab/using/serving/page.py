"""The page's own files, and the description of the interface as plain HTML."""

from html import escape
from importlib.resources import files
from typing import Any

_KINDS = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


def _read(name: str) -> bytes:
    return files("reslab.using.serving").joinpath("static", name).read_bytes()


PAGE = {path: (_read(name), kind) for path, (name, kind) in _KINDS.items()}


def docs_page(description: dict[str, Any]) -> bytes:
    """An OpenAPI description as one page that needs nothing else but /page.css."""
    parts = [
        "<!doctype html>\n<html lang=en>\n<meta charset=utf-8>\n<title>reslab: interface</title>",
        '<meta name=viewport content="width=device-width, initial-scale=1">',
        '<link rel=stylesheet href="page.css">\n<link rel=icon href="icon.svg">',
        "<main class=docs>\n<h1>Interface</h1>",
        f"<p>{escape(description['info']['description'])}</p>",
        '<p><a href="openapi.json">openapi.json</a> · <a href="./">the page</a></p>',
    ]
    for path, methods in description["paths"].items():
        for method, about in methods.items():
            parts.append(_section(path, method, about))
    return ("\n".join(parts) + "\n</main>\n</html>\n").encode()


def _section(path: str, method: str, about: dict[str, Any]) -> str:
    lines = [
        f"<section>\n<h2><code>{escape(method.upper())} {escape(path)}</code></h2>",
        f"<p>{escape(about['summary'])}. {escape(about['description'])}</p>",
    ]
    body = about.get("requestBody", {}).get("content", {})
    if body:
        kinds = ", ".join(f"<code>{escape(kind)}</code>" for kind in body)
        lines.append(f"<p>Body: {kinds}</p>")
    rows = [
        f"<tr><th scope=row><code>{escape(each['name'])}</code></th>"
        f"<td>{escape(each.get('description', ''))}</td></tr>"
        for each in about.get("parameters", ())
    ]
    if rows:
        lines.append(f"<table>\n<caption>Query</caption>\n{''.join(rows)}\n</table>")
    rows = [
        f"<tr><th scope=row>{escape(status)}</th><td>{escape(each['description'])}</td></tr>"
        for status, each in sorted(about["responses"].items())
    ]
    lines.append(f"<table>\n<caption>Answers</caption>\n{''.join(rows)}\n</table>\n</section>")
    return "\n".join(lines)
