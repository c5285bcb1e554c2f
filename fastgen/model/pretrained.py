"""`save_pretrained`, `from_pretrained` and `push_to_hub` of models.

What reads and writes is `fastgen.model.folders`, which is imported when it is needed.
"""

from __future__ import annotations

import inspect
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from fastgen.common.checks import check_floating_dtype
from fastgen.common.devices import check_device
from fastgen.common.errors import nearest
from fastgen.common.hub import PREFIX, create_repository, folder_of, upload_files

if TYPE_CHECKING:
    from fastgen.model.card import Card, Recommended

P = TypeVar("P", bound="Pretrained")


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
            plan: the recommended `fastgen.Plan`; ``fastgen sample`` uses it, and
                ``fastgen.Plan.from_pretrained`` reads it.
            shape: of one sample, without the batch axis; then ``fastgen sample`` needs no --shape.
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
        from fastgen.model import folders

        if hub and not push_to_hub:
            raise TypeError(f"{', '.join(sorted(hub))}: of push_to_hub; give push_to_hub=True")
        folder = Path(save_directory)
        folders.write(self, folder, plan, shape, card, config, repo_id or folder.resolve().name)
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
        from fastgen.model import folders

        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            name = repo_id.removeprefix(PREFIX)
            folders.write(self, folder, plan, shape, card, config, name)
            full = create_repository(name, private=private, token=token)
            if full != name:  # the card has it
                folders.write(self, folder, plan, shape, card, config, full)
            return upload_files(
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
        from fastgen.model import folders

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
        found: P = folders.read(cls, folder, net, trusted, device, dtype, changes)
        return found
