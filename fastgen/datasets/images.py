"""Folders of images as data: nothing is skipped in silence, nothing is read as what it is not."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
# Images that are not read: of several pictures, of other ranges, or without pixels.
OTHERS = (
    *(".tif", ".tiff", ".gif", ".apng", ".avif", ".heic", ".heif", ".jp2", ".jxl", ".jfif"),
    *(".exr", ".hdr", ".pgm", ".ppm", ".pnm", ".pbm", ".tga", ".ico", ".svg", ".raw", ".dng"),
)


def load_folder(path: Path) -> tuple[Tensor, Tensor | None]:
    """All images below a folder, [N, C, H, W] in [-1, 1], and their classes [N] or None.

    Grey images have one channel, others three; an alpha channel must be opaque. The names of
    subfolders, sorted, are the classes, if there are at least two. Links to folders are followed.

    Warns:
        UserWarning: naming files that are no images, and subfolders without any.

    Raises:
        ValueError: naming an image that cannot be used, or is not like the first, and the remedy.
        OSError: for a folder that cannot be read.
    """
    files = images_below(path)
    labels = class_numbers(path, files)
    arrays: list[NDArray[np.float32]] = []
    for file in files:
        arrays.append(read_image(file))
        if arrays[-1].shape != arrays[0].shape:
            raise ValueError(
                f"{file}: is {_described(arrays[-1])}, but {files[0]} is {_described(arrays[0])}; "
                "bring all images to one size, and all to grey or all to colour"
            )
    return torch.from_numpy(np.stack(arrays)), labels


def class_numbers(path: Path, files: list[Path]) -> Tensor | None:
    """The class of each image, by the sorted names of subfolders; None for fewer than two.

    Raises:
        ValueError: for an image beside the subfolders.
    """
    parents = [file.relative_to(path).parts[:-1] for file in files]
    classes = sorted(set(parents))
    if () in classes and len(classes) > 1:
        file, other = files[parents.index(())], files[parents.index(classes[1])]
        raise ValueError(
            f"{file}: lies beside the subfolder of {other}, so that it has no class; move it into "
            "one, or all images into one folder"
        )
    if len(classes) < 2:
        return None
    number = {parent: k for k, parent in enumerate(classes)}
    return torch.tensor([number[parent] for parent in parents], device="cpu")


def images_below(path: Path) -> list[Path]:
    """The images below a folder, sorted."""
    files, others, empty = [], [], []
    seen = set()

    def fail(error: OSError) -> None:
        raise error

    for folder, subfolders, names in os.walk(path, followlinks=True, onerror=fail):
        here = Path(folder)
        if here.resolve() in seen:  # a link to a folder above it, or to another that is read
            raise ValueError(f"{here}: this folder was read already; remove the link to it")
        seen.add(here.resolve())
        images = [here / name for name in names if Path(name).suffix.lower() in SUFFIXES]
        for file in images:
            _check_place(file, path)
        files += images
        for name in sorted(set(names) - {file.name for file in images}):
            if Path(name).suffix.lower() in OTHERS:
                raise ValueError(
                    f"{here / name}: images of this kind are not read ({', '.join(SUFFIXES)} are); "
                    "convert it to .png, or remove it"
                )
            others.append(here / name)
        if here != path and not subfolders and not images:
            empty.append(here)
    if not files:
        raise ValueError(f"{path}: no images in it ({', '.join(SUFFIXES)})")
    for what, left in (("no images", others), ("without images", empty)):
        if left:
            shown = ", ".join(str(p.relative_to(path)) for p in sorted(left)[:3])
            more = f" and {len(left) - 3} more" if len(left) > 3 else ""
            warnings.warn(f"{path}: left out, {what}: {shown}{more}", stacklevel=4)
    return sorted(files)


def _check_place(file: Path, path: Path) -> None:
    """Refuse copies that programs keep out of sight, and links that lead nowhere."""
    parts = file.relative_to(path).parts
    if file.name.startswith("._") or "__MACOSX" in parts:
        raise ValueError(
            f"{file}: a resource fork of macOS, no image; remove all of them "
            f"(find {path} -name '._*' -delete)"
        )
    if any(part.startswith(".") for part in parts):
        raise ValueError(f"{file}: a hidden file, or in a hidden folder; move or remove it")
    if not file.is_file():
        raise ValueError(f"{file}: no file (a link that leads nowhere?); remove it")


def read_image(file: Path | BinaryIO, name: str = "") -> NDArray[np.float32]:
    """One image [C, H, W] in [-1, 1].

    Raises:
        ValueError: naming the file (``name``, of an open one), what is wrong, and the remedy.
    """
    from PIL import Image

    name = name or str(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata
            with Image.open(file) as opened:
                return pixels_of(opened, name)
    except _RefusedError as refused:
        raise ValueError(str(refused)) from None
    except Exception as error:  # zlib, struct, syntax, memory: what a broken file makes of Pillow
        raise ValueError(f"{name}: not a whole image ({error}); replace or remove it") from error


class _RefusedError(ValueError):
    """A whole image that is not of a kind that is trained on."""


def pixels_of(opened: Any, name: str) -> NDArray[np.float32]:
    """An image of Pillow as [C, H, W] in [-1, 1].

    Raises:
        ValueError: for several pictures, transparency, or another mode than grey and RGB.
    """
    frames, mode = getattr(opened, "n_frames", 1), opened.mode
    image = opened
    if mode in ("P", "PA"):  # as it is shown; colours of a palette may be transparent
        image = image.convert("RGBA")
    elif mode == "1":
        image = image.convert("L")
    alpha = None
    if image.mode in ("RGBA", "LA"):
        alpha = np.asarray(image.getchannel("A"))
        image = image.convert(image.mode[:-1])
    elif "transparency" in image.info:
        alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    pixels = np.asarray(image)
    if frames > 1:
        raise _RefusedError(f"{name}: has {frames} pictures; keep one of them")
    if alpha is not None and not (alpha == 255).all():
        raise _RefusedError(f"{name}: is transparent in places; put it on a background and save it")
    shaped = pixels[..., None] if pixels.ndim == 2 else pixels
    if mode.startswith("I;16"):
        scale = 65535
    elif (
        pixels.dtype == np.uint8
        and shaped.shape[2] in (1, 3)
        and mode not in ("YCbCr", "LAB", "HSV")
    ):
        scale = 255
    else:
        raise _RefusedError(f"{name}: of mode {mode}; convert it to grey or RGB of 8 bits")
    unit = np.divide(shaped, scale, dtype=np.float32)
    return np.ascontiguousarray(unit.transpose(2, 0, 1) * 2 - 1)


def _described(image: NDArray[np.float32]) -> str:
    channels, height, width = image.shape
    return f"{width} x {height} in {'grey' if channels == 1 else 'colour'}"
