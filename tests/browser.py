"""Debian's Chromium, driven by Playwright: a page that records every request it makes."""

import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
SERIOUS = ("serious", "critical")


@contextmanager
def chromium():
    """A browser; skips the test where there is none."""
    sync = pytest.importorskip("playwright.sync_api", reason="no playwright: run `make browser`")
    if CHROMIUM is None:
        pytest.skip("no Chromium: run `make browser`")
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(browser, url, **context):
    """A page at url. `page.urls` are those of all requests, `page.troubles` what went wrong in it.

    context: as Playwright's new_context takes it, such as viewport, locale, color_scheme.
    """
    holder = browser.new_context(**context)
    page = holder.new_page()
    page.urls, page.troubles = [], []
    holder.on("request", lambda request: page.urls.append(request.url))
    page.on("pageerror", lambda error: page.troubles.append(str(error)))
    page.on("console", lambda line: page.troubles.append(line.text) if line.type == "error" else 0)
    try:
        page.goto(url)
        yield page
    finally:
        holder.close()


def axe_findings(page):
    """What axe finds serious or critical in a page, one line a place."""
    package = pytest.importorskip("axe_core_python", reason="no axe: run `make browser`")
    script = (Path(package.__file__).parent / "axe.min.js").read_text("utf-8")
    page.evaluate(script)  # not as an element, which the page's own policy would refuse
    found = page.evaluate("axe.run()")
    return [
        f"{one['impact']} {one['id']}: {node['html']}"
        for one in found["violations"]
        if one["impact"] in SERIOUS
        for node in one["nodes"]
    ]
