"""Models as folders: weights, facts, plan and card.

A folder has config.json (what the model is), model.safetensors (the network's weights),
plan.json (the recommended plan, if there is one) and README.md (the card). Nothing in it is code,
and nothing that is read from it is run.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastgen.common.checks import check_sizes
from fastgen.common.files import check_weights, read_safetensors, replacing, write_safetensors
from fastgen.common.hub import (
    CARD,
    CONFIG,
    INSTALL,
    LATENT,
    PLAN,
    SCALING,
    WEIGHTS,
    PretrainedError,
)
from fastgen.common.modes import unrecorded
from fastgen.common.typed import is_dense
from fastgen.model import card as cards
from fastgen.model import facts as stored
from fastgen.model.card import Card, Recommended
from fastgen.model.facts import Facts

_RESTORE = "restore it from a copy, or save it again"
SAVE = "fastgen_save"  # in the metadata of the weights: which save they are of


def write(
    model: Any,
    folder: Path,
    plan: Recommended | None,
    shape: Sequence[int] | None,
    card: Card | None,
    config: Mapping[str, Any] | None,
    name: str,
) -> None:
    """The files, after all checks; config.json is the last, so that no half save looks whole."""
    net = bare_module(model.net)
    if shape is not None:
        shape = check_sizes("shape", shape, "that of one sample")
    card = Card() if card is None else card
    pictures = card.files()
    if plan is not None and plan.schedule != model.schedule:
        raise ValueError(
            f"plan: made for {plan.schedule!r}, the model is on {model.schedule!r}; make it with "
            "fastgen.plan(solver, model.schedule, steps)"
        )
    text, save = stored.config_text(model, net, shape, config)
    weights = _weights(net)
    path = folder / WEIGHTS
    described = stored.describe_network(net, config)
    with _named(path, "correct the network, or give config= the arguments that make it"):
        check_weights(net, weights, path)
        if "name" in described:
            check_weights(stored.on_meta(described), weights, path)
    written = None if plan is None else plan.to_json()
    readme = cards.card_text(card, name, model, net, plan, shape)
    with _safetensors(str(path)):
        write_safetensors(path, weights, {"format": "pt", SAVE: save})
    if written is None:
        (folder / PLAN).unlink(missing_ok=True)
    else:
        _put(folder / PLAN, written.encode())
    for target, picture in pictures.items():
        if picture.resolve() != (folder / target).resolve():
            _put(folder / target, picture.read_bytes())
    if _is_ours(folder / CARD):
        _put(folder / CARD, readme.encode())
    _put(folder / CONFIG, text.encode())
    for decoding in (LATENT, SCALING):
        if (folder / decoding).exists():
            warnings.warn(
                f"{folder / decoding}: kept from an earlier save, and `fastgen sample` decodes "
                "with it; remove it if this model is of the data themselves",
                stacklevel=3,
            )


def read(
    cls: Any,
    folder: Path,
    net: Any,
    trusted: Sequence[str],
    device: torch.device | str | None,
    dtype: torch.dtype | None,
    changes: Mapping[str, Any],
) -> Any:
    """What `Pretrained.from_pretrained` makes of a folder, after all checks."""
    facts = Facts.read(folder, changes.get("schedule"))
    arguments = {"schedule": facts.schedule, **facts.arguments, **changes}
    if dtype is not None and arguments["dtype"] is not None:
        arguments["dtype"] = dtype
    with nullcontext() if changes else _named(facts.path):
        cls(nn.Identity(), **arguments)
    with unrecorded(net):  # a network made in inference mode could never be trained
        return cls(_network(folder, facts, net, trusted, device, dtype), **arguments)


def _network(
    folder: Path,
    facts: Facts,
    net: Any,
    trusted: Sequence[str],
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> nn.Module:
    """The network with its weights, after all checks."""
    path = folder / WEIGHTS
    maker = stored.network_maker(facts, net, trusted)
    with _safetensors(str(path)), _named(path):
        weights, metadata = read_safetensors(path)
    if facts.save is not None and metadata.get(SAVE, facts.save) != facts.save:
        raise PretrainedError(
            f"{path}: of another save than {CONFIG}; save the model again, or take 'save' out of "
            f"{CONFIG} (null) if the weights are right"
        )
    remedy = _RESTORE if net is None else "give net= the network that was saved"
    if isinstance(maker, nn.Module):
        module = bare_module(maker)
    else:
        if net is None and "name" in facts.network:  # sizes that no weights are of take no memory
            with _named(facts.path):
                check_weights(stored.on_meta(facts.network), weights, path)
        with _named(facts.path, remedy), torch.random.fork_rng(devices=[]):
            module = maker()
    with _named(path, remedy):
        check_weights(module, weights, path)
    if maker is not module and not isinstance(maker, nn.Module):
        _take_dtypes(module, weights)
    module.load_state_dict(weights)
    module.to(device=device, dtype=dtype)
    module.eval()
    return maker if isinstance(maker, nn.Module) else module


def bare_module(given: Any) -> nn.Module:
    """The module that is saved: of torch.compile, DataParallel and AveragedModel what is inside.

    Raises:
        TypeError: for what is no torch.nn.Module.
    """
    if not isinstance(given, nn.Module):
        raise TypeError(
            f"net={given!r}: only a torch.nn.Module can be saved; put the function into the "
            "forward of a module that holds its networks"
        )
    net: nn.Module = given
    wrappers = (
        nn.DataParallel,
        nn.parallel.DistributedDataParallel,
        torch.optim.swa_utils.AveragedModel,
    )
    while "_orig_mod" in net._modules or isinstance(net, wrappers):
        net = net.get_submodule("_orig_mod" if "_orig_mod" in net._modules else "module")
    return net


def _weights(net: nn.Module) -> dict[str, Tensor]:
    found = net.state_dict()
    for name, value in found.items():
        if not is_dense(value):
            kind = type(value).__name__
            raise TypeError(
                f"net: {name} is a {kind} that is no dense tensor, which safetensors does not hold"
            )
    return found


def _take_dtypes(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give parameters and buffers the dtypes of the file, tied ones once."""
    for name, x in module.state_dict(keep_vars=True).items():
        if isinstance(x, Tensor) and x.dtype != weights[name].dtype:
            x.data = x.data.to(weights[name].dtype)


def _is_ours(path: Path) -> bool:
    """Whether a card may be written: there is none, or one that was written before."""
    return not path.exists() or cards.MARK in path.read_text("utf-8", errors="replace")


def _put(path: Path, content: bytes) -> None:
    with replacing(path) as file:
        file.write(content)


@contextmanager
def _named(path: Path, remedy: str = _RESTORE) -> Iterator[None]:
    """Whatever a damaged file leads to is a PretrainedError, which names the file."""
    try:
        yield
    except (PretrainedError, ImportError):
        raise
    except Exception as error:
        text = str(error) or type(error).__name__
        named = f"{path.parent}{os.sep}"  # one of the folder's files
        where = "" if text.startswith(named) else f"{path}: "
        raise PretrainedError(f"{where}{text}; {remedy}") from error


@contextmanager
def _safetensors(what: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ImportError(f"{what}: safetensors is needed: {INSTALL}") from error
