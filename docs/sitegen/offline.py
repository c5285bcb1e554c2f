"""The texts of all pages in a script, so that search from disk can show where it found a word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

LONGEST = 6000


def write(app: Sphinx, error: Exception | None) -> None:
    """Write _static/texts.js."""
    if error or app.builder.format != "html":
        return
    texts = {}
    for page in sorted(app.env.found_docs):
        document = app.env.get_doctree(page)
        found = (
            node.astext().replace("\n", " ")
            for node in document.findall(nodes.TextElement)
            if isinstance(node, (nodes.paragraph, nodes.title, nodes.literal_block, nodes.term))
        )
        texts[page] = " ".join(found)[:LONGEST]
    script = f"window.fastgenTexts = {json.dumps(texts, ensure_ascii=False)};\n"
    (Path(app.outdir) / "_static" / "texts.js").write_text(script)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the hook."""
    app.add_js_file("offline.js", priority=100)
    app.connect("build-finished", write)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
