"""A model's facts as JSON: what its arguments are and how its network is made again."""

from __future__ import annotations

import json
import reprlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

import fastgen.networks as networks
import fastgen.schedules as schedules
from fastgen.common.errors import nearest
from fastgen.common.hub import CONFIG, PretrainedError
from fastgen.common.version import VERSION
from fastgen.model.arguments import Declared
from fastgen.model.parametrisation import Parametrisation
from fastgen.schedules import Schedule

FORMAT, NEWEST = "fastgen_model", 1
_LARGEST = 2**31  # size of an axis


class Described(Protocol):
    """What of a model is stored."""

    net: Callable[..., Any]
    schedule: Schedule
    parametrisation: Parametrisation
    time_input: str | Callable[[float], float]
    dtype: torch.dtype | None
    time_dtype: torch.dtype
    second_time: str
    learned_variance: bool
    reuses_output: bool
    declared: Declared


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_dtype(value: Any) -> bool:
    return isinstance(value, str) and isinstance(getattr(torch, value, None), torch.dtype)


# Of each argument: what JSON may hold, in words, and the value that the constructor takes.
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "predicts": (lambda v: isinstance(v, str), "a text"),
    "time_input": (lambda v: isinstance(v, str), "a text"),
    "data_at": (lambda v: type(v) is int, "a whole number"),
    "sigma_data": (lambda v: type(v) in (int, float), "a number"),
    "dtype": (lambda v: v is None or _is_dtype(v), "a dtype's name or null"),
    "time_dtype": (_is_dtype, "a dtype's name"),
    "second_time": (lambda v: isinstance(v, str), "a text"),
    "learned_variance": (lambda v: isinstance(v, bool), "true or false"),
    "score_scale": (lambda v: type(v) in (int, float), "a number"),
    "reuses_output": (lambda v: isinstance(v, bool), "true or false"),
    "shared": (_is_names, "a list of names"),
    "per_sample": (_is_names, "a list of names"),
}
_OBJECTS = ("schedule", "model", "network")
_KEYS = (FORMAT, "fastgen_version", *_OBJECTS, "shape", "save")


@dataclass(frozen=True)
class Facts:
    """What a folder's config.json says.

    path: of the file. schedule: the process. arguments: the model's others, by name. network: its
    description, see `describe_network`. shape: one sample's, where it was given. save: a number by
    which the weights of the same save are known, or None.
    """

    path: Path
    schedule: Schedule
    arguments: dict[str, Any]
    network: dict[str, Any]
    shape: tuple[int, ...] | None
    save: str | None

    @classmethod
    def read(cls, folder: Path, schedule: Schedule | None = None) -> Facts:
        """The facts in a folder.

        Args:
            folder: that `save_pretrained` wrote.
            schedule: to be taken instead of the one there.

        Raises:
            PretrainedError: naming the file, and the key that is missing, unknown or of another
                kind.
        """
        path = folder / CONFIG
        found = _object(path)
        version = found.get(FORMAT)
        if type(version) is not int:
            raise PretrainedError(
                f"{path}: not of a fastgen model ({FORMAT} is missing); rebuild the network "
                "yourself and give it to fastgen.Model"
            )
        if not 1 <= version <= NEWEST:
            raise PretrainedError(
                f"{path}: of format {version}, this fastgen {VERSION} reads up to {NEWEST}; "
                "install a newer fastgen"
            )
        _check_keys(path, "", found, _KEYS)
        for name in _OBJECTS:
            if not isinstance(found[name], dict):
                raise _wrong(path, name, found[name], "an object")
        given = found["model"]
        _check_keys(path, "model.", given, _KINDS)
        for name, (accepts, called) in _KINDS.items():
            if not accepts(given[name]):
                raise _wrong(path, f"model.{name}", given[name], called)
        arguments = dict(given, time_dtype=getattr(torch, given["time_dtype"]))
        arguments["dtype"] = given["dtype"] and getattr(torch, given["dtype"])
        shape, save = found["shape"], found["save"]
        if shape is not None and not (
            isinstance(shape, list) and all(type(n) is int and 0 < n < _LARGEST for n in shape)
        ):
            raise _wrong(path, "shape", shape, "positive whole numbers or null")
        if not (save is None or isinstance(save, str)):
            raise _wrong(path, "save", save, "a text or null")
        try:
            schedule = schedule or schedules.from_config(found["schedule"])
        except Exception as error:  # parameters of any kind, for schedules of anyone
            raise PretrainedError(
                f"{path}: schedule: {error}; one of your own is to be imported first, or give "
                "schedule="
            ) from error
        shape = None if shape is None else tuple(shape)
        return cls(path, schedule, arguments, found["network"], shape, save)


def config_text(
    model: Described, net: nn.Module, shape: Sequence[int] | None, config: Mapping[str, Any] | None
) -> tuple[str, str]:
    """What `Facts.read` reads of a model with that network, and the number of the save.

    Raises:
        TypeError: naming what JSON cannot hold, with the remedy.
    """
    if not isinstance(model.time_input, str):
        raise TypeError(
            f"time_input={model.time_input!r}: a function cannot be saved; let the network's "
            "forward apply it, and take 'unit' (or another name) here"
        )
    p = model.parametrisation
    arguments = {
        "predicts": p.predicts,
        "time_input": model.time_input,
        "data_at": int(p.data_at),
        "sigma_data": float(p.sigma_data),
        "dtype": None if model.dtype is None else _name_of(model.dtype),
        "time_dtype": _name_of(model.time_dtype),
        "second_time": model.second_time,
        "learned_variance": bool(model.learned_variance),
        "score_scale": float(p.score_scale),
        "reuses_output": bool(model.reuses_output),
        "shared": sorted(model.declared.shared),
        "per_sample": sorted(model.declared.per_sample),
    }
    facts: dict[str, Any] = {
        FORMAT: NEWEST,
        "fastgen_version": VERSION,
        "schedule": _schedule(model.schedule),
        "model": arguments,
        "network": describe_network(net, config),
        "shape": None if shape is None else [int(n) for n in shape],
    }
    try:
        save = f"{zlib.crc32(json.dumps(facts, sort_keys=True, allow_nan=False).encode()):08x}"
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"the network's arguments cannot be written as JSON ({error}); make the network with "
            "numbers, texts and lists, or give config= and from_pretrained(net=...)"
        ) from error
    return json.dumps({**facts, "save": save}, indent=2) + "\n", save


def describe_network(net: nn.Module, config: Mapping[str, Any] | None) -> dict[str, Any]:
    """``{"name": ..., **arguments}`` of a registered network; otherwise its class and arguments.

    Args:
        net: the module.
        config: its arguments, where it does not keep them itself: those of `fastgen.networks`, and
            modules with huggingface_hub's PyTorchModelHubMixin, do.
    """
    if config is None and isinstance(net, networks.Network) and networks.is_registered(net):
        return networks.to_config(net)
    if config is None:
        config = getattr(net, "_hub_mixin_config", None)
    cls = type(net)
    arguments = None if config is None else dict(config)
    return {"class": f"{cls.__module__}:{cls.__qualname__}", "arguments": arguments}


def on_meta(description: Mapping[str, Any]) -> nn.Module:
    """A registered network of sizes alone, which take no memory."""
    with torch.device("meta"):
        return networks.from_config(dict(description))


def network_maker(
    facts: Facts, net: Any, trusted: Sequence[str]
) -> Callable[[], nn.Module] | nn.Module:
    """The user's own module, or a function that makes the network that a file describes.

    Args:
        facts: with the description.
        net: a module, a class or function that makes one, or None.
        trusted: classes ``module:name`` that may be imported.

    Raises:
        PretrainedError: if there is no way to make one, with the remedy.
    """
    if isinstance(net, nn.Module):
        return net
    if not (net is None or callable(net)):
        raise TypeError(f"net={net!r}: expected a module, or a class or function that makes one")
    described, path = facts.network, facts.path
    if "name" in described:
        if net is None:
            return lambda: networks.from_config(described)
        given = {key: value for key, value in described.items() if key != "name"}
        return lambda: _module(net(**given) if isinstance(net, type) else net())
    _check_keys(path, "network.", described, ("class", "arguments"))
    called, arguments = described["class"], described["arguments"]
    if not isinstance(called, str) or not isinstance(arguments, dict | None):
        raise _wrong(path, "network", described, "a class and its arguments")
    if net is None:
        net = _imported(path, called, arguments, trusted)
    return lambda: _module(net(**(arguments or {})) if isinstance(net, type) else net())


def _imported(path: Path, called: str, arguments: Any, trusted: Sequence[str]) -> Any:
    """The class that a file names, if the caller trusts it."""
    module, _, name = called.partition(":")
    if isinstance(trusted, str) or called not in trusted:
        raise PretrainedError(
            f"{path}: the network is a {called}, of code that is not fastgen's; give your own "
            f"module or class, from_pretrained(..., net={name.rpartition('.')[2]}), or, if this "
            f"class may be imported and called, trusted=[{called!r}]"
        )
    if arguments is None:
        raise PretrainedError(
            f"{path}: the arguments of {called} were not saved; give from_pretrained(..., "
            "net=your_module)"
        )
    try:
        found: Any = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise PretrainedError(
            f"{path}: {called} cannot be imported ({error}); install its package, or give net="
        ) from error
    return found


def _module(made: Any) -> nn.Module:
    if not isinstance(made, nn.Module):
        raise TypeError(f"net: expected it to make a torch.nn.Module, got {type(made).__name__}")
    return made


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise PretrainedError(
            f"{path}: no such file; give the folder that save_pretrained wrote"
        ) from None
    except (ValueError, RecursionError) as error:
        raise PretrainedError(f"{path}: not JSON ({error}); restore it from a copy") from error
    except OSError as error:
        raise PretrainedError(f"{path}: cannot be read ({error})") from error
    if not isinstance(found, dict):
        raise _wrong(path, "the file", found, "an object")
    return found


def _check_keys(path: Path, place: str, found: Mapping[str, Any], known: Any) -> None:
    for name in known:
        if name not in found:
            raise PretrainedError(f"{path}: {place}{name} is missing; save the model again")
    for name in found:
        if name not in known:
            raise PretrainedError(f"{path}: unknown key {place}{name}; {nearest(name, known)}")


def _wrong(path: Path, place: str, value: Any, expected: str) -> PretrainedError:
    return PretrainedError(f"{path}: {place}: expected {expected}, got {reprlib.repr(value)}")


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _schedule(schedule: Schedule) -> dict[str, Any]:
    """The schedule's configuration, if it makes an equal one again."""
    config = schedule.to_config()
    try:
        same = schedules.from_config(json.loads(json.dumps(config))) == schedule
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"schedule={schedule!r}: cannot be saved ({error}); give its class "
            "@fastgen.schedules.register"
        ) from error
    if not same:
        raise TypeError(
            f"schedule={schedule!r}: its configuration makes another one; correct the class's "
            "to_config"
        )
    return config
