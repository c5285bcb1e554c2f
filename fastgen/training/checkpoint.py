"""A trainer's checkpoint on disk, and what it must be before anything is taken from it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastgen.common.files import check_weights, read_object, read_safetensors, write_safetensors
from fastgen.training import sharded
from fastgen.training.settings import Settings

FORMAT, VERSION = "fastgen_training", "1"
FIELDS = ("exp_avg", "exp_avg_sq", "step")  # of AdamW's state of a parameter


@dataclasses.dataclass(frozen=True)
class Contents:
    """What is in a checkpoint: of the file itself only that its metadata are sound is known."""

    path: Path
    tensors: Mapping[str, Tensor]
    step: int
    settings: Settings
    description: Mapping[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin so, by the rest of their names."""
        start = prefix + "."
        return {k[len(start) :]: v for k, v in self.tensors.items() if k.startswith(start)}

    def check_origin(self, settings: Settings, description: Mapping[str, Any]) -> None:
        """Refuse other settings, and another objective or network as far as they are described.

        Raises:
            ValueError: naming what differs.
        """
        if settings != self.settings:
            ours, theirs = dataclasses.asdict(settings), dataclasses.asdict(self.settings)
            other = [k for k in ours if ours[k] != theirs[k]]
            shown = ", ".join(f"{k} ({theirs[k]} there, {ours[k]} here)" for k in other)
            raise ValueError(f"{self.path}: other settings: {shown}")
        _compare(self.path, json.loads(json.dumps(dict(description))), self.description)

    def check_tensors(
        self, network: nn.Module, average: nn.Module, trained: Mapping[str, nn.Parameter]
    ) -> None:
        """Refuse tensors that are not those of this network, its average and their optimiser.

        Raises:
            ValueError: naming what is missing, left over, of another shape or dtype, or no number
                that training leads to.
        """
        kinds = ("network.", "average.", "optimiser.")
        for name in self.tensors:
            if not name.startswith(kinds):
                raise ValueError(f"{self.path}: unexpected tensor {name!r}")
        for part, module in (("network", network), ("average", average)):
            check_weights(module, self.part(part), self.path, exact=True)
        found, wanted = self.part("optimiser"), trained if self.step else {}
        names = {f"{field}.{name}" for name in wanted for field in FIELDS}
        others = [name for name, _ in network.named_parameters() if name not in trained]
        frozen = {f"{field}.{name}" for name in others for field in FIELDS}  # not taken, if there
        for name in sorted([*(names - found.keys()), *(found.keys() - names - frozen)]):
            field, _, parameter = name.partition(".")
            fault = "is missing" if name in names else f"({field}) is unexpected"
            raise ValueError(f"{self.path}: the optimiser's state of {parameter} {fault}")
        for name, p in wanted.items():
            for field in FIELDS:
                fault = self._fault(found[f"{field}.{name}"], field, p)
                if fault:
                    raise ValueError(
                        f"{self.path}: the optimiser's {field} of {name} {fault}; restore the file "
                        "from a copy, or begin anew"
                    )

    def _fault(self, x: Tensor, field: str, p: nn.Parameter) -> str:
        """What is wrong with one tensor of the optimiser."""
        shape, dtype = (p.shape, p.dtype) if field != "step" else (torch.Size(), torch.float32)
        if x.shape != shape or x.dtype != dtype:
            return f"is {x.dtype} {list(x.shape)}, expected {dtype} {list(shape)}"
        if not bool(x.isfinite().all()) or (field != "exp_avg" and bool((x < 0).any())):
            return "holds numbers that are not finite, or negative"
        if field == "step" and (x.item() > self.step or x.item() % 1):
            return f"is {x.item()}, expected a whole number up to {self.step}"
        return ""


def write(
    path: Path | str,
    tensors: Mapping[str, Tensor],
    step: int,
    settings: Settings,
    description: Mapping[str, Any],
) -> None:
    """Write a checkpoint, whole or not at all."""
    write_safetensors(path, tensors, metadata_of(step, settings, description))


def metadata_of(step: int, settings: Settings, description: Mapping[str, Any]) -> dict[str, str]:
    """What a checkpoint says beside its tensors."""
    return {
        FORMAT: VERSION,
        "step": str(step),
        "settings": json.dumps(dataclasses.asdict(settings)),
        "description": json.dumps(dict(description)),
    }


def read(path: Path) -> Contents:
    """What `write` wrote, or the folder of a run on several processes.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or not of a trainer.
    """
    found = sharded.read(path) if path.is_dir() else read_safetensors(path)
    return contents_of(path, *found)


def contents_of(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Contents:
    """A checkpoint of what was read.

    Raises:
        ValueError: for metadata that are not a trainer's.
    """
    if metadata.get(FORMAT) != VERSION:
        raise ValueError(f"{path}: not a checkpoint of fastgen.training (version {VERSION})")
    settings = _settings(path, read_object(path, metadata, "settings"))
    description = read_object(path, metadata, "description")
    step = metadata.get("step", "")
    if not (step.isascii() and step.isdigit() and len(step) < 19 and int(step) <= settings.steps):
        shown = repr(step[:30]) if step else "is missing"
        raise ValueError(
            f"{path}: damaged metadata (step {shown}: expected a whole number up to the "
            f"{settings.steps} of the settings)"
        )
    return Contents(path, tensors, int(step), settings, description)


def _settings(path: Path, values: dict[str, Any]) -> Settings:
    """The settings in a file, each of the kind that it has by default."""
    for f in dataclasses.fields(Settings):
        given = values.get(f.name)
        if f.name not in values:
            raise ValueError(
                f"{path}: damaged metadata, or written by another version of fastgen: its settings "
                f"have no {f.name!r}; train again with this one, or load it with that one"
            )
        if not (_like(given, f.default) or given is f.default is None):
            raise ValueError(f"{path}: damaged metadata (settings: {f.name}={given!r})")
    try:
        return Settings(**{**values, "betas": tuple(values["betas"])})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: damaged metadata ({error})") from error


def _like(given: Any, default: Any) -> bool:
    """Whether a value from JSON is of the kind of a default; numbers are where there is none."""
    if isinstance(default, tuple):
        fits = isinstance(given, list) and len(given) == len(default)
        return fits and all(map(_like, given, default))
    if default is None or isinstance(default, float):
        return type(given) in (float, int)
    return type(given) is type(default)


def _compare(path: Path, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Refuse to go on with another objective or network, as far as both are described."""
    for part in ("objective", "network", "shape", "scaling"):
        known = (part in ours and part in theirs) or part == "scaling"
        if not known or ours.get(part) == theirs.get(part):
            continue
        here, there = ours.get(part), theirs.get(part)
        if isinstance(here, dict) and isinstance(there, dict):
            names = [k for k in {**there, **here} if here.get(k) != there.get(k)]
            shown = ", ".join(f"{k} ({there.get(k)} there, {here.get(k)} here)" for k in names)
        else:
            shown = f"{there} there, {here} here"
        raise ValueError(f"{path}: another {part}: {shown}; go on with that, or begin anew")
