"""Docstrings of the house, made into reStructuredText before napoleon reads them."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

# Headings that napoleon reads.
SECTIONS = {"Args:", "Returns:", "Raises:", "Yields:", "Attributes:", "Example:", "Examples:"}


def _split(lines: list[str]) -> tuple[list[str], list[str]]:
    """The text, and the sections that napoleon reads."""
    for i, line in enumerate(lines):
        if line.strip() in SECTIONS and line == line.strip():
            return lines[:i], lines[i:]
    return lines, []


def fields_as_list(lines: list[str], names: list[str]) -> list[str]:
    """Sentences "name: what it is" of a dataclass as a list of its fields.

    They stand in a paragraph of their own, begun by a field's name; the next one begins on a new
    line or after a full stop.
    """
    if not names:
        return lines
    either = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    # One name or some: "start, end: times".
    label = rf"(?:{either})(?:(?:, | and )(?:{either}))*"
    start = re.compile(rf"(?:^|(?<=[.;] ))({label}): ", re.M)
    out: list[str] = []
    for paragraph in re.split(r"\n\s*\n", "\n".join(lines)):
        if not re.match(rf"({label}): ", paragraph):
            out += [*paragraph.split("\n"), ""]
            continue
        pieces = start.split(paragraph)[1:]
        for name, text in zip(pieces[::2], pieces[1::2], strict=True):
            text = " ".join(text.split()).rstrip(";")
            terms = ", ".join(f"``{each}``" for each in re.split(r", | and ", name))
            out += [terms, f"    {text}", ""]
    return out


def displays_as_code(lines: list[str]) -> list[str]:
    """Indented paragraphs of the text, which are formulas or code, as literal blocks."""
    out: list[str] = []
    shown = False
    for i, line in enumerate(lines):
        indented = line.startswith("    ")
        starts = indented and not shown and (i == 0 or not lines[i - 1].strip())
        terms = i > 0 and lines[i - 1].startswith("``")
        literal = any(before.strip() for before in out) and next(
            before for before in reversed(out) if before.strip()
        ).rstrip().endswith("::")
        if starts and not terms and not literal:
            code = "python" if lines[i].lstrip().startswith((">>>", "@", "import ")) else "text"
            out += [f".. code-block:: {code}", ""]
            shown = True
        elif line.strip() and not indented:
            shown = False
        out.append(line)
    return out


def whole_names(lines: list[str]) -> list[str]:
    """Names of arguments that go over two lines, put on one: napoleon reads no others."""
    out: list[str] = []
    for line in lines:
        before = out[-1] if out else ""
        if before.endswith(",") and re.fullmatch(r"    [\w*]+(, [\w*]+)*,", before):
            out[-1] = f"{before} {line.strip()}"
        else:
            out.append(line)
    return out


def _escaped(found: re.Match[str]) -> str:
    return "".join(f"\\{sign}" for sign in found.group(1))


def quiet(line: str) -> str:
    """Signs that reStructuredText would read as its own, where they are mathematics."""
    parts = re.split(r"(``.*?``|`[^`]*`)", line)
    for i in range(0, len(parts), 2):
        parts[i] = re.sub(r"(?<!\S)(\*)(?=[,)])", _escaped, parts[i])
        parts[i] = re.sub(r"(?<!\S)(\*\*?)(?=\w[^*]*$)", _escaped, parts[i])
        parts[i] = re.sub(r"(?<=[\w(\[])(\*\*?)(?=[\w(])", _escaped, parts[i])
        parts[i] = re.sub(r"\|(?=\S)", r"\\|", parts[i])
        parts[i] = re.sub(r"(\w)_(?=[\s),.;:]|$)", r"\1\\_", parts[i])
    return "".join(parts)


def process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Change a docstring's lines in place; a hook of autodoc."""
    if not lines:
        return
    if (
        dataclasses.is_dataclass(obj)
        and isinstance(obj, type)
        and lines[0].startswith(f"{obj.__name__}(")
    ):
        lines[:] = []  # the docstring dataclasses make up
        return
    names = [f.name for f in dataclasses.fields(obj)] if dataclasses.is_dataclass(obj) else []
    if isinstance(obj, type):
        names += list(getattr(obj, "__annotations__", {}))
    text, sections = _split(lines)
    text = displays_as_code(fields_as_list(text, sorted(set(names))))
    prompt = False
    result = []
    for line in [*text, *whole_names(sections)]:
        if line.lstrip().startswith(">>>"):
            prompt = True
        elif not line.strip():
            prompt = False
        code = prompt or (line.startswith("    ") and line in text and "``" not in line)
        argument = line.lstrip().startswith("*")  # napoleon sees to those
        result.append(line if code or argument else quiet(line))
    lines[:] = result
