"""Every block of Python on the pages runs, and every link between them leads somewhere."""

import re
import warnings

import pytest
import torch

from fastgen.schedules import base
from fastgen.solvers import registry
from fastgen.timesteps import registry as grids
from tests.support.code_of_pages import ROOT, blocks, name_of, pages, run

PAGES = [page for page in pages() if page.name != "README.md"]  # tests/test_readme.py
LINK = re.compile(r"(?<!\\)\[[^\]\[]*(?:\[[^\]]*\][^\]\[]*)*\]\(([^)\s]+)\)|^ *:link: (\S+)$", re.M)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder of its own, one thread, and registries that are as before afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    tables = [registry._SOLVERS, grids._grids, base._registry]
    kept = [dict(table) for table in tables]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    torch.set_num_threads(threads)
    for table, before in zip(tables, kept, strict=True):
        table.clear()
        table.update(before)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p.read_text())], ids=name_of)
def test_the_python_of_a_page_runs(page, elsewhere):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        run(page.read_text(), name_of(page), {"__name__": "__page__"})


def test_every_fence_of_python_is_found():
    for page in PAGES:
        text = page.read_text()
        shown = len(re.findall(r"^ *(?:```|~~~)+ *(?:\{code-block\} *)?python", text, re.M))
        hidden = len(re.findall(r"<!-- python\b", text))
        assert len(blocks(text)) == shown + hidden, page
        notes = len(re.findall(r"<!-- *(?:skip|needs|raises):", text))
        assert sum(b.kind is not None for b in blocks(text)) == notes, page


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_links_lead_to_files(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for pair in LINK.findall(text):
        target = (pair[0] or pair[1]).split("#")[0]
        if not target or re.match(r"[a-z]+:", target):
            continue
        place = (page.parent / target) if not target.startswith("/") else ROOT / "docs" / target[1:]
        found = place.exists() or place.with_suffix(".md").exists()
        assert found or "gallery/" in target or "reference/" in target, f"{page}: {target}"


def test_what_a_block_is(tmp_path):
    text = """
<!-- python
a = 1
-->
```python
b = a + 1
```
<!-- skip: a reason -->
```python
c = nothing
```
<!-- raises: ValueError: no -->
```python
raise ValueError("no more")
```
<!-- needs: a_module_that_is_not_there -->
```python
import a_module_that_is_not_there
```
"""
    scope = {}
    assert run(text, "page", scope) == 3
    assert scope["b"] == 2
    assert "c" not in scope
    assert [b.line for b in blocks(text)][:2] == [3, 6]
    with pytest.raises(AssertionError, match="page, line 3: expected ValueError, got no error"):
        run("<!-- raises: ValueError -->\n```python\npass\n```\n", "page", {})
    with pytest.raises(AssertionError, match="KeyError: 'x'"):
        run("<!-- raises: ValueError -->\n```python\n{}['x']\n```\n", "page", {})
    with pytest.raises(SyntaxError):
        run("<!-- skip: no -->\n```python\n(\n```\n", "page", {})
