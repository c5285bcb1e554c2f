"""Folders of models: here, or downloaded from the Hugging Face Hub and uploaded to it.

Nothing that is downloaded is run: only the files named here are fetched, which are text and
safetensors.
"""

from __future__ import annotations

import os
import re
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from typing_extensions import Self

PREFIX = "hf:"
CONFIG, WEIGHTS, PLAN, LATENT, SCALING, CARD = (
    "config.json",
    "model.safetensors",
    "plan.json",
    "latent.safetensors",
    "scaling.json",
    "README.md",
)
READ = (CONFIG, WEIGHTS, PLAN, LATENT, SCALING)  # what is downloaded, where it is there
INSTALL = "pip install 'fastgen-torch[hub]'"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


class PretrainedError(ValueError):
    """A saved model that cannot be had or read: names the file, what is wrong and the remedy."""


def is_hub_name(source: str) -> bool:
    """Whether a text can only mean a repository: it begins with ``hf:``."""
    return source.startswith(PREFIX)


def split_name(source: str) -> tuple[str, str | None]:
    """Name and revision of ``[hf:]ORG/NAME[@REVISION]``.

    Raises:
        PretrainedError: if it is none.
    """
    name, _, revision = source.removeprefix(PREFIX).partition("@")
    if not _NAME.fullmatch(name):
        raise PretrainedError(f"{source}: expected a repository, such as hf:ORG/NAME")
    return name, revision or None


def folder_of(
    source: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Path:
    """The folder with a saved model: as given, or what was downloaded of a repository.

    Args:
        source: a folder, or ``[hf:]ORG/NAME[@REVISION]``; a folder of that name comes first unless
            the text begins with ``hf:``.
        revision: branch, tag or commit, where ``source`` names none.
        token: for private repositories; the default is that of ``hf auth login``.
        cache_dir: where downloads are kept; the default is huggingface_hub's.
        local_files_only: take what was downloaded before.
        force_download: download again.

    Raises:
        PretrainedError: if there is neither.
        ImportError: if huggingface_hub is needed and missing.
    """
    text = os.fspath(source)
    if not is_hub_name(text):
        path = Path(text)
        if path.is_dir():
            return path
        if path.exists():
            raise PretrainedError(
                f"{text}: is a file, and not the folder that save_pretrained wrote; a trainer's "
                "checkpoint is read by fastgen.training.load(path).model()"
            )
        if not _NAME.fullmatch(text.partition("@")[0]):
            raise PretrainedError(f"{text}: no such folder; from the Hub it is hf:ORG/NAME")
    name, named = split_name(text)
    if named is not None and revision not in (None, named):
        raise PretrainedError(f"{text}: revision={revision!r} is another one; give one of them")
    hub = _hub(f"{text}: no such folder, and for the Hub" if not is_hub_name(text) else text)
    errors = hub.errors
    try:
        found = hub.snapshot_download(
            name,
            revision=named or revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            force_download=force_download,
            allow_patterns=list(READ),
        )
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        remedy = "check the name, the network and `hf auth login`"
        missing = "" if is_hub_name(text) else "no such folder, and "
        raise PretrainedError(f"{text}: {missing}not from the Hub ({first}); {remedy}") from error
    return Path(found)


def create_repository(repo_id: str, *, private: bool | None, token: str | None) -> str:
    """The full name of a repository, which is made if there is none.

    Raises:
        ImportError: if huggingface_hub is missing.
    """
    api = _hub(repo_id).HfApi(token=token)
    return str(api.create_repo(repo_id=repo_id, private=private, exist_ok=True).repo_id)


class BesideModel(ABC):
    """One file in a model's folder, such as what makes data of the model's samples.

    _file: its name. _what: what it holds, in words. _absent: what is so where there is none.
    """

    _file: ClassVar[str]
    _what: ClassVar[str]
    _absent: ClassVar[str]

    @abstractmethod
    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        """Write it into the folder of `Model.save_pretrained`."""

    @classmethod
    @abstractmethod
    def _read(cls, path: Path) -> Self:
        """What the file holds.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: naming it, if it is damaged.
        """

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
        create_pr: bool | None = None,
    ) -> str:
        """Upload the file, beside a model that `Model.push_to_hub` put there.

        Args:
            repo_id: ORG/NAME.
            commit_message, private, token, branch, create_pr: as huggingface_hub's.

        Returns:
            The commit's address.

        Raises:
            ValueError: for what cannot be stored.
            ImportError: if huggingface_hub is missing.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            name = create_repository(repo_id.removeprefix(PREFIX), private=private, token=token)
            return upload_files(
                Path(folder),
                name,
                commit_message=commit_message or f"Upload {self._what}",
                token=token,
                branch=branch,
                create_pr=create_pr,
            )

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], **hub: Any) -> Self:
        """What `save_pretrained` or `push_to_hub` stored.

        Args:
            folder: a folder, or ``[hf:]ORG/NAME[@REVISION]``.
            **hub: revision, token, cache_dir, local_files_only, force_download, as
                `Model.from_pretrained` has them.

        Raises:
            PretrainedError: a ValueError that names the file, if there is none or it is damaged.
        """
        path = folder_of(folder, **hub) / cls._file
        try:
            return cls._read(path)
        except FileNotFoundError:
            raise PretrainedError(f"{path}: no such file; {cls._absent}") from None
        except ValueError as error:
            raise PretrainedError(str(error)) from error


def upload_files(
    folder: Path,
    repo_id: str,
    *,
    commit_message: str,
    token: str | None = None,
    branch: str | None = None,
    create_pr: bool | None = None,
    **patterns: Any,
) -> str:
    """Put a folder's files into a repository, in one commit.

    Args:
        folder: whose files are uploaded.
        repo_id: ORG/NAME.
        commit_message, token, branch, create_pr: as for huggingface_hub.
        **patterns: allow_patterns, ignore_patterns, delete_patterns, as there.

    Returns:
        The commit's address.

    Raises:
        ImportError: if huggingface_hub is missing.
    """
    api = _hub(repo_id).HfApi(token=token)
    done = api.upload_folder(
        repo_id=repo_id,
        repo_type="model",
        folder_path=folder,
        commit_message=commit_message,
        revision=branch,
        create_pr=create_pr,
        **patterns,
    )
    return str(done)


def _hub(what: str) -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise ImportError(f"{what}: huggingface_hub is needed: {INSTALL}") from error
    return huggingface_hub
