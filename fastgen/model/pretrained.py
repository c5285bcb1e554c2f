"""Models as folders: weights, facts, plan and card, here and on the Hugging Face Hub.

A folder has config.json (what the model is), model.safetensors (the network's weights),
plan.json (the recommended plan, if there is one) and README.md (the card). Nothing in it is code,
and nothing that is read from it is run.
"""

from __future__ import annotations

import inspect
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fastgen.common.checks import check_floating_dtype, check_sizes
from fastgen.common.devices import check_device
from fastgen.common.errors import nearest
from fastgen.common.files import (
    check_weights,
    read_safetensors,
    replacing,
    write_safetensors,
)
from fastgen.common.hub import (
    CARD,
    CONFIG,
    INSTALL,
    PLAN,
    PREFIX,
    WEIGHTS,
    PretrainedError,
    create_repository,
    folder_of,
    upload,
)
from fastgen.common.typed import is_dense
from fastgen.model import card as cards
from fastgen.model import facts as stored
from fastgen.model.card import Card, Recommended
from fastgen.model.facts import Facts

P = TypeVar("P", bound="Pretrained")
_RESTORE = "restore it from a copy, or save it again"
SAVE = "fastgen_save"  # in the metadata of the weights: which save they are of


class Pretrained:
    """`save_pretrained`, `from_pretrained` and `push_to_hub`, for a class of `Model`'s arguments.

    The names and arguments are those of huggingface_hub's mixins, which need not be installed to
    save and load folders.
    """

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        *,
        plan: Recommended | None = None,
        shape: Sequence[int] | None = None,
        card: Card | None = None,
        config: Mapping[str, Any] | None = None,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        **hub: Any,
    ) -> str | None:
        """Write the model to a folder, each file whole or not at all.

        Args:
            save_directory: the folder; files of an earlier save are replaced, and no others. A
                README.md without the line that marks a written card is left alone.
            plan: the recommended `fastgen.Plan`; `fastgen sample` uses it, and
                ``fastgen.Plan.from_pretrained`` reads it.
            shape: of one sample, without the batch axis; then `fastgen sample` needs no --shape.
            card: what README.md says beyond the model's own facts.
            config: arguments of a network of your own, for ``from_pretrained(net=Class)``. Networks
                of `fastgen.networks`, and modules with huggingface_hub's PyTorchModelHubMixin, know
                theirs.
            repo_id: where ``push_to_hub`` goes; the default is the folder's name.
            push_to_hub: upload too, see `push_to_hub`.
            **hub: arguments of `push_to_hub`.

        Returns:
            The commit's address if it was uploaded, otherwise None.

        Raises:
            TypeError: for what cannot be stored: functions, networks that are no torch.nn.Module,
                schedules of functions. The message has the remedy; nothing is written then.
            ValueError: for weights that are NaN or infinite or do not fit the network's arguments,
                or a plan for another schedule.
            ImportError: if safetensors is missing.
        """
        if hub and not push_to_hub:
            raise TypeError(f"{', '.join(sorted(hub))}: of push_to_hub; give push_to_hub=True")
        folder = Path(save_directory)
        _write(self, folder, plan, shape, card, config, repo_id or folder.resolve().name)
        if not push_to_hub:
            return None
        return self.push_to_hub(
            repo_id or folder.resolve().name,
            plan=plan,
            shape=shape,
            card=card,
            config=config,
            **hub,
        )

    def push_to_hub(
        self,
        repo_id: str,
        *,
        plan: Recommended | None = None,
        shape: Sequence[int] | None = None,
        card: Card | None = None,
        config: Mapping[str, Any] | None = None,
        commit_message: str = "Upload a fastgen model",
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
        create_pr: bool | None = None,
        allow_patterns: Sequence[str] | str | None = None,
        ignore_patterns: Sequence[str] | str | None = None,
        delete_patterns: Sequence[str] | str | None = None,
    ) -> str:
        """Upload what `save_pretrained` writes, in one commit; the repository is made if needed.

        Args:
            repo_id: ORG/NAME.
            plan, shape, card, config: as for `save_pretrained`. The card replaces the one there;
                ignore_patterns="README.md" leaves it.
            commit_message: of the commit.
            private, token, branch, create_pr, allow_patterns, ignore_patterns, delete_patterns: as
                huggingface_hub's.

        Returns:
            The commit's address.

        Raises:
            TypeError, ValueError, ImportError: as `save_pretrained`, and if huggingface_hub is
                missing.
        """
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            name = repo_id.removeprefix(PREFIX)
            _write(self, folder, plan, shape, card, config, name)
            full = create_repository(name, private=private, token=token)
            if full != name:  # the card has it
                _write(self, folder, plan, shape, card, config, full)
            return upload(
                folder,
                full,
                commit_message=commit_message,
                token=token,
                branch=branch,
                create_pr=create_pr,
                allow_patterns=allow_patterns,
                ignore_patterns=ignore_patterns,
                delete_patterns=delete_patterns,
            )

    @classmethod
    def from_pretrained(
        cls: type[P],
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        net: nn.Module | Callable[..., nn.Module] | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        trusted: Sequence[str] = (),
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        **changes: Any,
    ) -> P:
        """The model in a folder, or in a repository of the Hub; the network in evaluation mode.

        Everything is checked before a weight of ``net`` is changed. No code is run or imported on
        the word of a file: a network is one of `fastgen.networks`, one registered there by a module
        that was imported, ``net``, or a class in ``trusted``.

        Args:
            pretrained_model_name_or_path: a folder, or ``[hf:]ORG/NAME[@REVISION]``.
            net: your own network, which gets the weights; or the class that makes it from the
                arguments that were saved; or a function without arguments.
            device: where the network goes; the default is where it is made.
            dtype: of its floating weights; the default is that of the file (of ``net``, if a
                module is given).
            trusted: classes "module:name" that may be imported and called with the arguments that
                were saved.
            force_download, token, cache_dir, local_files_only, revision: as huggingface_hub's.
            **changes: arguments of the model to be taken instead of those saved (schedule,
                time_input, shared ...).

        Raises:
            PretrainedError: a ValueError that names the file, what is wrong with it and the remedy.
            TypeError: for an unknown argument.
            ImportError: if safetensors, or for a repository huggingface_hub, is missing.
        """
        known = [k for k in inspect.signature(cls).parameters if k not in ("net", "dtype")]
        for name in changes:
            if name not in known:
                raise TypeError(f"unexpected argument {name!r}; {nearest(name, known)}")
        if device is not None:
            check_device("device", device)
        if dtype is not None:
            check_floating_dtype("dtype", dtype)
        folder = folder_of(
            pretrained_model_name_or_path,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            force_download=force_download,
        )
        facts = Facts.read(folder, changes.get("schedule"))
        arguments = {"schedule": facts.schedule, **facts.arguments, **changes}
        if dtype is not None and arguments["dtype"] is not None:
            arguments["dtype"] = dtype
        make: Any = cls
        with nullcontext() if changes else _named(facts.path):
            make(nn.Identity(), **arguments)
        network = _network(folder, facts, net, trusted, device, dtype)
        found: P = make(network, **arguments)
        return found


def _write(
    model: Any,
    folder: Path,
    plan: Recommended | None,
    shape: Sequence[int] | None,
    card: Card | None,
    config: Mapping[str, Any] | None,
    name: str,
) -> None:
    """The files, after all checks; config.json is the last, so that no half save looks whole."""
    net = unwrapped(model.net)
    if shape is not None:
        shape = check_sizes("shape", shape, "that of one sample")
    card = Card() if card is None else card
    pictures = card.files()
    if plan is not None and plan.schedule != model.schedule:
        raise ValueError(
            f"plan: made for {plan.schedule!r}, the model is on {model.schedule!r}; make it with "
            "fastgen.plan(solver, model.schedule, steps)"
        )
    text, save = stored.text_of(model, net, shape, config)
    weights = _weights(net)
    path = folder / WEIGHTS
    described = stored.describe_network(net, config)
    with _named(path, "correct the network, or give config= the arguments that make it"):
        check_weights(net, weights, path)
        if "name" in described:
            check_weights(stored.on_meta(described), weights, path)
    written = None if plan is None else plan.to_json()
    readme = cards.text_of(card, name, model, net, plan, shape)
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
        module = unwrapped(maker)
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


def unwrapped(given: Any) -> nn.Module:
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
