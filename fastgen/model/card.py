"""The card of a saved model: what a reader of its page on the Hub wants to know."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from fastgen.common.typed import typed_fields
from fastgen.model.facts import Described

# A card with this line is replaced by the next save; without it, it is somebody's own.
MARK = "<!-- Written by fastgen. Take this line out to keep your changes when saving again. -->"
PLAN_LINES = 40


class Recommended(Protocol):
    """What of a `fastgen.Plan` is stored and shown."""

    @property
    def solver(self) -> str:
        """Its name."""

    @property
    def schedule(self) -> Any:
        """The schedule that it was made for."""

    @property
    def nfe(self) -> int:
        """Number of network evaluations."""

    def to_json(self) -> str:
        """For `Plan.from_json`."""


@dataclass(frozen=True)
class Card:
    """What a model card says beyond what the model itself knows.

    title: the heading; the default is the folder's name. description: some sentences. license: as
    the Hub names it ("mit", "apache-2.0" ...). figures: what was measured, by name. pictures:
    files by caption, copied beside the card. tags, datasets: more of the Hub's, by which a model
    is found.
    """

    title: str | None = None
    description: str = ""
    license: str | None = None
    figures: Mapping[str, float | str] = field(default_factory=dict)
    pictures: Mapping[str, str | os.PathLike[str]] = field(default_factory=dict)
    tags: Sequence[str] = ()
    datasets: Sequence[str] = ()

    def __post_init__(self) -> None:
        typed_fields(self)
        for name in self.pictures.values():
            if not Path(name).is_file():
                raise FileNotFoundError(f"pictures: {os.fspath(name)}: no such file")

    def files(self) -> dict[str, Path]:
        """The pictures by the names that they have beside the card.

        Raises:
            ValueError: if two would have one name.
        """
        found: dict[str, Path] = {}
        for given in map(Path, self.pictures.values()):
            if found.setdefault(given.name, given) != given:
                raise ValueError(f"pictures: two files of the name {given.name}; rename one")
        return found


def card_text(
    card: Card,
    name: str,
    model: Described,
    net: nn.Module,
    plan: Recommended | None,
    shape: Sequence[int] | None,
) -> str:
    """The card as Markdown with the Hub's metadata in front.

    Args:
        card: what the user says.
        name: ORG/NAME, or the folder's.
        model: whose arguments are shown.
        net: the module of the model, whose weights are counted.
        plan: the recommended one.
        shape: of one sample.
    """
    flow = model.parametrisation.predicts in ("velocity", "average_velocity", "velocity_and_score")
    tags = dict.fromkeys(["fastgen", "flow-matching" if flow else "diffusion", *card.tags])
    front: dict[str, Any] = {"library_name": "fastgen", "tags": list(tags)}
    if card.license is not None:
        front["license"] = card.license
    if card.datasets:
        front["datasets"] = list(card.datasets)
    if shape is not None and len(shape) == 3 and shape[0] in (1, 3) and not _classes(net):
        front["pipeline_tag"] = "unconditional-image-generation"
    # JSON is YAML: no text can break out of its line.
    lines = ["---", *(f"{key}: {json.dumps(value)}" for key, value in front.items()), "---"]
    lines += ["", MARK, "", f"# {card.title or name.rpartition('/')[2]}", ""]
    if card.description:
        lines += [card.description, ""]
    lines += ["## Sampling", "", "```python", *_example(name, net, plan, shape), "```", ""]
    source = f"hf:{name}" if "/" in name else name
    lines += [f"From the command line: `fastgen sample {source} --out samples.npz`.", ""]
    lines += ["## Model", "", *_table(("", ""), _facts(model, net, shape)), ""]
    if plan is not None:
        listed = str(plan).splitlines()
        more = len(listed) - PLAN_LINES
        shown = [*listed[:PLAN_LINES], f"... and {more} lines more"] if more > 0 else listed
        lines += ["## Plan", "", "In `plan.json`:", "", "```text", *shown, "```", ""]
    if card.figures:
        rows = {key: _number(value) for key, value in card.figures.items()}
        lines += ["## Figures", "", *_table(("figure", "value"), rows), ""]
    for caption, path in card.pictures.items():
        shown_name = Path(path).name.replace(" ", "%20")
        lines += [f"![{caption}]({shown_name})", "", caption, ""]
    return "\n".join(lines)


def _example(
    name: str, net: nn.Module, plan: Recommended | None, shape: Sequence[int] | None
) -> list[str]:
    sizes = "B, ..." if shape is None else ", ".join(map(str, (16, *shape)))
    labels = ", labels=labels" if _classes(net) else ""
    lines = ["import fastgen", "", f'model = fastgen.Model.from_pretrained("{name}")']
    if _classes(net):
        lines.append(f"labels = torch.zeros(16, dtype=torch.int64)  # of {_classes(net)} classes")
        lines[1:1] = ["import torch"]
    if plan is None:
        given = ', net_kwargs={"labels": labels}' if labels else ""
        return [*lines, f"x = fastgen.sample(model, ({sizes}), steps=20, seed=0{given})"]
    return [
        *lines,
        f'plan = fastgen.Plan.from_pretrained("{name}")',
        f"x = fastgen.Sampler(model, plan)(({sizes}), seed=0{labels})",
    ]


def _facts(model: Described, net: nn.Module, shape: Sequence[int] | None) -> dict[str, str]:
    p = model.parametrisation
    weights = {id(x): x.numel() for x in net.parameters()}
    facts = {
        "predicts": p.predicts,
        "schedule": f"`{model.schedule!r}`",
        "is told the time as": str(model.time_input),
        "data at time": str(p.data_at),
        "network": f"{type(net).__name__}, {sum(weights.values()):,} weights",
    }
    if shape is not None:
        facts["one sample"] = str(list(shape))
    if _classes(net):
        facts["classes"] = str(_classes(net))
    return facts


def _classes(net: nn.Module) -> int:
    found = getattr(net, "classes", 0)
    return found if isinstance(found, int) else 0


def _table(head: tuple[str, str], rows: Mapping[str, str]) -> list[str]:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    return lines + [f"| {_cell(key)} | {_cell(value)} |" for key, value in rows.items()]


def _cell(text: str) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{float(value):.6g}"
