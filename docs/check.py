"""The built site in a browser: `python docs/check.py [docs/_build/html]`, or `make docs-check`.

Pages are opened from disk: no console errors, no request that leaves the disk, pictures that
load, nothing wider than a screen of 375 pixels. Links and their anchors resolve. The search finds
what it has to. axe finds no fault in one page of each kind, in both colour schemes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 375, "height": 800}
# What has to be found, and in how many of the first results the page shows these words.
SEARCHES = {
    "karras": r"karras",
    "data at t = 1": r"data at\W+t\W+=\W+1|data_at\W*=\W*1",
    "simulation based inference": r"posterior estimation",
    "negative log likelihood bits per dim": r"bits per dim",
    "event detection": r"event=",
    "checkpoint save load": r"save_pretrained",
    "Sinkhorn epsilon": r"Sinkhorn\(reg",
}
FIRST = 5
RULES = ["wcag2a", "wcag2aa"]
# Sphinx writes long signatures as a list of descriptions without terms, and the theme's sidebar has
# arrows without a name beside links that have one.
NOT_OURS = ("definition-list", "summary-name")
# Folders of pages made by a rule: axe reads the first of them and every so-manieth of these.
MANY, EVERY = ("solvers", "reference/api", "gallery"), 40


class Page(HTMLParser):
    """The links, pictures and anchors of one page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Collect what leads somewhere, and what can be led to."""
        found = dict(attributes)
        for name in ("id", "name"):
            if value := found.get(name):
                self.anchors.add(value)
        for name in ("href", "src"):
            if value := found.get(name):
                self.links.append(value)


def pages_of(site: Path) -> list[Path]:
    """The pages of a site; what lies in _static is material of the theme."""
    return sorted(p for p in site.rglob("*.html") if "_static" not in p.relative_to(site).parts)


def broken_links(site: Path) -> list[str]:
    """Links within the site to files or anchors that are not there."""
    pages = {path: Page(path.read_text()) for path in pages_of(site)}
    faults = []
    for path, page in pages.items():
        for link in dict.fromkeys(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            if not target.exists():
                faults.append(f"{path.relative_to(site)}: {link}: no such file")
            elif anchor and target in pages and anchor not in pages[target].anchors:
                faults.append(f"{path.relative_to(site)}: {link}: no such anchor")
    return faults


def executable() -> str:
    """The installed Chromium.

    Raises:
        SystemExit: that says what to install.
    """
    for name in BROWSERS:
        if found := shutil.which(name):
            return found
    raise SystemExit(
        "docs-check needs Chromium, and there is none: install it, on Debian and Ubuntu by "
        "`apt-get install chromium`, and call `make docs-check` again"
    )


@contextmanager
def browser() -> Iterator[Any]:
    """A page of a Chromium with a profile of its own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as profile:
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=executable(), args=FLAGS, headless=True
        )
        yield context.new_page()
        context.close()


class Watch:
    """What a page complains of, and what it asks of the network."""

    def __init__(self, page: Any) -> None:
        self.faults: list[str] = []
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.faults.append(f"script: {error}"))
        page.on("request", self._request)

    def _console(self, message: Any) -> None:
        if message.type == "error":
            self.faults.append(f"console: {message.text}")

    def _request(self, request: Any) -> None:
        if request.url.startswith("http"):
            self.faults.append(f"asks the network for {request.url}")

    def take(self) -> list[str]:
        """The faults since the last call."""
        faults, self.faults = self.faults, []
        return faults


def opened(page: Any, watch: Watch, path: Path) -> list[str]:
    """Faults of one page: its console, its pictures, its width on a narrow screen."""
    page.set_viewport_size(WIDE)
    page.goto(path.as_uri(), wait_until="load")
    missing = page.evaluate(
        "async () => { const all = [...document.images];"
        "all.forEach(i => { i.loading = 'eager'; });"
        "await Promise.all(all.map(i => i.decode().catch(() => {})));"
        "return all.filter(i => !i.naturalWidth).map(i => i.src); }"
    )
    faults = [f"picture does not load: {source}" for source in missing]
    page.set_viewport_size(NARROW)
    width = page.evaluate("document.documentElement.scrollWidth")
    if width > NARROW["width"]:
        faults.append(f"is {width} pixels wide on a screen of {NARROW['width']}")
    return faults + watch.take()


def searched(page: Any, watch: Watch, site: Path) -> list[str]:
    """Faults of the search, from disk: what it has to find, and the lines it shows of it."""
    faults = []
    page.set_viewport_size(WIDE)
    for query, shown in SEARCHES.items():
        page.goto((site / "search.html").as_uri() + f"?q={query.replace(' ', '+')}")
        page.wait_for_selector("#search-results .search-summary:has-text('finished')")
        page.wait_for_timeout(500)
        links = page.eval_on_selector_all(
            "#search-results li > a:first-child", "all => all.map(a => a.href)"
        )
        first = [Path(unquote(urlsplit(link).path)) for link in links[:FIRST]]
        texts = [re.sub(r"<[^>]+>", "", path.read_text()) for path in first if path.exists()]
        if not any(re.search(shown, text, re.I) for text in texts):
            faults.append(f"search for {query!r}: none of the first {FIRST} pages has it")
        if links and not page.query_selector("#search-results li p.context"):
            faults.append(f"search for {query!r}: results show no lines of their pages")
    return faults + watch.take()


def kinds(pages: list[Path], site: Path, every: int) -> list[Path]:
    """All pages that are written by hand, and some of those that are made by a rule."""
    chosen: list[Path] = []
    for path in pages:
        folder = path.parent.relative_to(site).as_posix()
        if folder not in MANY or path.name == "index.html":
            chosen.append(path)
    for folder in MANY:
        chosen += [p for p in pages if p.parent == site / folder][::every]
    return list(dict.fromkeys(chosen))


def inaccessible(page: Any, path: Path, schemes: Sequence[str] = ("light", "dark")) -> list[str]:
    """What axe finds in a page, in each colour scheme."""
    script = resources.files("axe_playwright_python").joinpath("axe.min.js").read_text()
    faults = []
    page.set_viewport_size(WIDE)
    page.goto(path.as_uri(), wait_until="load")
    page.evaluate(script)
    page.add_style_tag(content="* { transition: none !important; animation: none !important; }")
    for scheme in schemes:
        page.evaluate(f"document.documentElement.dataset.theme = '{scheme}'")
        page.wait_for_timeout(100)
        found = page.evaluate(
            "([rules, without]) => axe.run({runOnly: rules, resultTypes: ['violations'],"
            "preload: false, rules: Object.fromEntries(without.map(r => [r, {enabled: false}]))})",
            [RULES, NOT_OURS],
        )
        for fault in found["violations"]:
            for node in fault["nodes"][:3]:
                faults.append(f"{scheme}: {fault['id']}: {node['html'][:160]}")
    return faults


def check(site: Path, only: str = "", every: int = 1) -> list[str]:
    """All faults of a site; ``only`` takes the pages whose path has it.

    Of pages that are made by a rule the browser opens every so-manieth.
    """
    pages = [p for p in pages_of(site) if only in p.relative_to(site).as_posix()]
    pages = kinds(pages, site, every)
    faults = [] if only else broken_links(site)
    shares = [share for share in (pages[::2], pages[1::2]) if share]
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        for found in pool.map(partial(looked_at, site, only), shares):
            faults += found
    return faults


def looked_at(site: Path, only: str, pages: list[Path]) -> list[str]:
    """The faults of some pages in a browser, and of the search if they have its page."""
    read = pages if only else [p for p in kinds(pages_of(site), site, EVERY) if p in pages]
    faults = []
    with browser() as page:
        watch = Watch(page)
        for path in pages:
            name = path.relative_to(site)
            faults += [f"{name}: {fault}" for fault in opened(page, watch, path)]
        if site / "search.html" in pages:
            faults += searched(page, watch, site)
        for path in read:
            name = path.relative_to(site)
            # Dark, which has the same rules, on one page of each kind.
            both = only or path.name == "index.html" or name.parent.as_posix() in MANY
            schemes = ("light", "dark") if both else ("light",)
            faults += [f"{name}: {fault}" for fault in inaccessible(page, path, schemes)]
    return faults


def main() -> None:
    """Print the faults; the exit status says whether there are any."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("site", type=Path, nargs="?", default=Path("docs/_build/html"))
    parser.add_argument("--only", default="", help="pages whose path has this")
    parser.add_argument(
        "--every", type=int, default=1, help="of the pages made by a rule open every so-manieth"
    )
    arguments = parser.parse_args()
    site = arguments.site.resolve()
    if not (site / "index.html").exists():
        raise SystemExit(f"{site}: no site is there; build it with `make docs`")
    faults = check(site, arguments.only, arguments.every)
    print("\n".join(faults) or f"{site}: nothing wrong")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
