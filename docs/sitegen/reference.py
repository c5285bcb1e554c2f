"""The reference: a page for every room and for every public name, written before Sphinx reads.

The pages are made from `__all__` of the rooms and from the docstrings, so that a new name has its
page without being entered anywhere; `rooms` only says under which heading it stands.
"""

from __future__ import annotations

import functools
import inspect
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config, GoogleDocstring

import fastgen
from sitegen import docstrings, rooms

# What types in signatures lead to outside this site; written down, as builds have no network.
_PYTHON, _NUMPY = "https://docs.python.org/3/library/", "https://numpy.org/doc/stable/reference/"
_TORCH = "https://docs.pytorch.org/docs/stable/generated/"
OUTSIDE = {
    "torch.Tensor": "https://docs.pytorch.org/docs/stable/tensors.html",
    "torch.device": "https://docs.pytorch.org/docs/stable/tensor_attributes.html",
    "torch.dtype": "https://docs.pytorch.org/docs/stable/tensor_attributes.html",
    "torch.nn.Module": f"{_TORCH}torch.nn.Module.html",
    "torch.Size": "https://docs.pytorch.org/docs/stable/size.html",
    "torch._C.Generator": f"{_TORCH}torch.Generator.html",
    "torch.no_grad": f"{_TORCH}torch.no_grad.html",
    "torch.compile": f"{_TORCH}torch.compile.html",
    "torch.get_num_threads": f"{_TORCH}torch.get_num_threads.html",
    "torch.func": "https://docs.pytorch.org/docs/stable/func.html",
    "pathlib.Path": f"{_PYTHON}pathlib.html#pathlib.Path",
    "os.PathLike": f"{_PYTHON}os.html#os.PathLike",
    "numpy.ndarray": f"{_NUMPY}generated/numpy.ndarray.html",
    "numpy.dtype": f"{_NUMPY}generated/numpy.dtype.html",
    "numpy.float64": f"{_NUMPY}arrays.scalars.html#numpy.float64",
    "numpy.random._generator.Generator": f"{_NUMPY}random/generator.html",
}
OUTSIDE |= {
    "Tensor": OUTSIDE["torch.Tensor"],
    "nn.Module": OUTSIDE["torch.nn.Module"],
    "torch._tensor.Tensor": OUTSIDE["torch.Tensor"],
    "torch.nn.modules.module.Module": OUTSIDE["torch.nn.Module"],
    "np.ndarray": OUTSIDE["numpy.ndarray"],
} | {
    f"collections.abc.{name}": f"{_PYTHON}collections.abc.html#collections.abc.{name}"
    for name in ("Callable", "Collection", "Iterable", "Iterator", "Mapping", "Sequence")
}


def summary(value: Any, module: Any, name: str) -> str:
    """The first sentence of what is said of a name."""
    if rooms.configurable(value):
        value = _function(value)
    if not (inspect.isclass(value) or inspect.isroutine(value)):
        return comment(module, name).split("\n")[0]
    text = (inspect.getdoc(value) or "").split("\n\n")[0].replace("\n", " ")
    if inspect.isclass(value) and text.startswith(f"{value.__name__}("):
        return ""
    found = re.match(r"(.+?[.:])(?:\s|$)", text)
    return docstrings.quiet((found.group(1) if found else text).rstrip(":"))


def comment(module: Any, name: str) -> str:
    """The comment above a constant, or its module's docstring."""
    places = [module]
    places += [m for m in map(_module_of, _imports(module, name)) if m is not None]
    for place in places:
        source = inspect.getsource(place)
        found = re.search(rf"((?:^#.*\n)*)^{name}\b(?:: [^=\n]+)? = ", source, re.M)
        if found and found.group(1):
            return re.sub(r"^# ?", "", found.group(1), flags=re.M).strip()
    return ""


def _imports(module: Any, name: str) -> list[str]:
    source = inspect.getsource(module)
    return re.findall(rf"from ([\w.]+) import [^\n(]*\b{name}\b", source)


def _module_of(name: str) -> Any:
    import importlib

    return importlib.import_module(name)


def _function(value: Any) -> Any:
    """The function behind a solver or a grid."""
    return inspect.unwrap(value.build)


def options_of(value: Any) -> str:
    """The options of a solver or a grid, as they are given by name."""
    parameters = inspect.signature(_function(value)).parameters.values()
    own = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    if not own:
        return "()"
    shown = ", ".join(f"{p.name}: {p.annotation} = {p.default!r}" for p in own)
    return f"(*, {shown})"


def _configurable(public: str, value: Any) -> list[str]:
    """A solver or a grid: its options, and what its function says."""
    function = _function(value)
    text = (inspect.getdoc(function) or "").split("\n")
    text = docstrings.fields_as_list(text, list(value.options))
    docstrings.process(None, "function", public, function, None, text)
    if hasattr(value, "source"):
        cost = f"Order {value.order}, evaluations per step: {value.evaluations}."
        text += ["", f"{cost} {docstrings.quiet(value.source)}."]
    lines = GoogleDocstring("\n".join(text), Config(napoleon_use_rtype=False)).lines()
    return [
        f".. py:function:: {public}{options_of(value)}",
        "",
        *(f"   {line}".rstrip() for line in lines),
        "",
    ]


def _kind(value: Any) -> str:
    if inspect.isclass(value):
        return "exception" if issubclass(value, BaseException) else "class"
    if rooms.configurable(value):  # called with its options
        return "function"
    return "function" if inspect.isroutine(value) or inspect.isfunction(value) else "data"


def _heading(title: str, sign: str) -> list[str]:
    return [title, sign * len(title), ""]


def _constant(module: Any, public: str, value: Any) -> list[str]:
    shown = repr(value)
    if len(shown) > 400 or " at 0x" in shown:
        shown = f"{type(value).__name__} of {len(value)}" if hasattr(value, "__len__") else ""
    lines = [f".. py:data:: {public}"]
    if shown:
        lines.append(f"   :value: {shown}")
    text = comment(module, public.rpartition(".")[2])
    return [*lines, "", *(f"   {docstrings.quiet(line)}" for line in text.split("\n")), ""]


def page(public: str, value: Any, module: Any) -> str:
    """The page of one name."""
    lines = _heading(public.removeprefix("fastgen."), "=")
    lines += _directive(public, value, module)
    if _kind(value) in ("class", "function"):
        lines += [f".. minigallery:: {public}", "   :add-heading: In the gallery", ""]
    return "\n".join(lines)


def _directive(public: str, value: Any, module: Any) -> list[str]:
    """What describes a name: by autodoc, or for a constant its value and the comment above it."""
    if rooms.configurable(value):
        return _configurable(public, value)
    kind = _kind(value)
    owner, _, name = public.rpartition(".")
    if kind == "data":
        return _constant(module, public, value)
    lines = [f".. auto{kind}:: {owner}::{name}"]
    if kind == "class":
        lines.append("   :members:")
        if not owner.startswith("fastgen.integrations"):
            lines.append(f"   :inherited-members: {', '.join(_described_elsewhere(value))}")
        own = vars(value)
        special = [n for n in ("__call__", "__getitem__", "__iter__") if n in own]
        special = [n for n in special if (own[n].__doc__ or "").strip()]
        if special:
            lines.append(f"   :special-members: {', '.join(special)}")
    return [*lines, ""]


def _described_elsewhere(value: type) -> list[str]:
    """Bases whose members a page leaves out: those that have their own page, here or not."""
    described = _public_classes()
    bases = value.__mro__[1:]
    return [b.__name__ for b in bases if b in described or not b.__module__.startswith("fastgen")]


@functools.cache
def _public_classes() -> frozenset[type]:
    values = []
    for room in rooms.found():
        module, groups = rooms.of(room)
        values += [getattr(module, name) for names in groups.values() for name in names]
    return frozenset(value for value in values if inspect.isclass(value))


def _table(rows: list[tuple[str, str]]) -> list[str]:
    lines = [".. list-table::", "   :widths: 30 70", "   :class: names", ""]
    for link, text in rows:
        lines += [f"   * - {link}", f"     - {text}".rstrip()]
    return [*lines, ""]


def _alias(real: dict[str, str], value: Any, public: str) -> None:
    real[public] = rooms.canonical(value, public)
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if isinstance(module, str) and isinstance(name, str):
        real[f"{module}.{name}"] = rooms.canonical(value, public)


def _entry(public: str) -> str:
    return f"   {public.rpartition('.')[2]} <{public}>"


def contents(found: list[rooms.Room]) -> str:
    """The rooms in the order in which they are laid out, as the reference's table of contents."""
    lines = [".. toctree::", "   :maxdepth: 1", ""]
    for room in found:
        lines.append(f"   {room.title} <api/room-{room.module}>")
    return "\n".join([*lines, ""])


def is_solver(module: str, name: str) -> bool:
    """Whether a name has its page among the solvers."""
    return module == "fastgen.solvers" and name in fastgen.solvers.names()


def write(app: Sphinx) -> None:
    """Write the pages below docs/reference/api that have changed; remove those of lost names."""
    folder = Path(app.srcdir) / "reference" / "api"
    folder.mkdir(parents=True, exist_ok=True)
    real: dict[str, str] = {}
    pages: dict[str, str] = {}
    found = rooms.found()
    for room in found:
        module, groups = rooms.of(room)
        lines = _heading(room.title, "=")
        lines += [f".. py:module:: {room.module}", ""]
        text = (inspect.getdoc(module) or "").split("\n")
        docstrings.process(app, "module", room.module, module, None, text)
        lines += [*text, ""]
        if room.picture:
            lines += [f".. figure:: /{room.picture}", f"   :alt: {room.caption}", ""]
            lines += [f"   {room.caption}", ""]
        listed: list[str] = []
        inline: list[str] = []
        for heading, names in groups.items():
            lines += _heading(heading, "-") if heading else []
            rows = []
            for name in names:
                value = getattr(module, name)
                public = rooms.canonical(value, f"{room.module}.{name}")
                _alias(real, value, f"{room.module}.{name}")
                if is_solver(room.module, name):
                    link = f":doc:`{name} </solvers/{name}>`"
                    rows.append((link, summary(value, module, name)))
                    continue
                if public == f"{room.module}.{name}" and rooms.on_one_page(room):
                    inline += _directive(public, value, module)
                elif public == f"{room.module}.{name}":
                    pages.setdefault(public, page(public, value, module))
                    listed.append(public)
                link = f":py:obj:`{name} <{public}>`"
                rows.append((link, summary(value, module, name)))
            lines += _table(rows)
        if listed:
            lines += [".. toctree::", "   :hidden:", "", *map(_entry, listed), ""]
        lines += inline
        pages[f"room-{room.module}"] = "\n".join(lines)
    for old in folder.glob("*.rst"):
        if old.stem not in pages:
            old.unlink()
    for stem, text in pages.items():
        path = folder / f"{stem}.rst"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
    (folder / "contents.inc").write_text(contents(found))
    app.env.fastgen_names = real  # type: ignore[attr-defined]


def resolve(app: Sphinx, env: Any, node: Any, contnode: Any) -> Any:
    """Where a name leads that is not written out in full, or by the module it is defined in."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"].removesuffix("()")
    if target in OUTSIDE:
        return nodes.reference("", "", contnode, refuri=OUTSIDE[target], internal=False)
    objects = env.get_domain("py").objects
    real = env.fastgen_names
    name = real.get(target)
    if name is None:
        owner, _, last = target.rpartition(".")
        if owner in real:  # a method, by its class's own module
            name = f"{real[owner]}.{last}"
    if name not in objects:
        ends = [each for each in objects if each.endswith(f".{target}")]
        near = [each for each in ends if each.startswith(str(node.get("py:module")))]
        ends = near or ends
        name = min(ends, key=lambda each: (each.count("."), each)) if ends else None
    if name is None or name not in objects:
        return None
    entry = objects[name]
    uri = app.builder.get_relative_uri(node["refdoc"], entry.docname)
    return nodes.reference("", "", contnode, refuri=f"{uri}#{entry.node_id}", internal=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the hooks."""
    assert fastgen.__all__
    app.connect("builder-inited", write)
    app.connect("autodoc-process-docstring", docstrings.process, priority=400)
    app.connect("missing-reference", resolve)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
