"""Data by a name or a path: built-in sets, files of arrays and folders of images."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastgen.common.errors import nearest
from fastgen.datasets.digits import load_digits
from fastgen.datasets.planar import SETS

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
SAMPLES = 20_000  # of the sets that are drawn


class Data(NamedTuple):
    """samples [N, ...], float32; labels [N] in 0 .. classes - 1, or None."""

    samples: Tensor
    labels: Tensor | None = None

    @property
    def classes(self) -> int:
        """The number of classes, 0 without labels."""
        return 0 if self.labels is None else int(self.labels.max()) + 1


def load(source: str) -> Data:
    """A built-in set's name, an .npy or .npz file, or a folder of images.

    digits: the 8 x 8 digits of scikit-learn with labels, in [-1, 1]. .npz: the array "data" (or the
    only one) and, if there is one, "labels". Folders: images of one size, as [C, H, W] in [-1, 1];
    the names of subfolders, sorted, are the classes.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be used, saying why.
    """
    if source == "digits":
        return Data(*load_digits().train)
    if source in SETS:
        drawn = SETS[source](SAMPLES, np.random.default_rng(0))
        return Data(torch.from_numpy(drawn).float())
    path = Path(source)
    if path.is_dir():
        return _folder(path)
    if path.suffix in (".npy", ".npz"):
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
        return _array(path)
    known = nearest(source, [*SETS, "digits"])
    raise ValueError(f"{source}: no folder, no .npy or .npz file, and no built-in set; {known}")


def _array(path: Path) -> Data:
    try:
        file = np.load(path, allow_pickle=False)
        arrays = {"data": file} if path.suffix == ".npy" else {k: file[k] for k in file.files}
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path}: not a whole array file without objects ({error})") from error
    labels = arrays.pop("labels", None)
    if "data" not in arrays and len(arrays) == 1:
        arrays = {"data": next(iter(arrays.values()))}
    if "data" not in arrays:
        raise ValueError(f"{path}: expected an array named 'data', found {', '.join(arrays)}")
    data = arrays["data"]
    if data.ndim < 2 or len(data) == 0 or not np.issubdtype(data.dtype, np.floating):
        raise ValueError(
            f"{path}: expected floating data [N, ...], got {data.dtype} {list(data.shape)}; scale "
            "images to [-1, 1]"
        )
    if not np.isfinite(data).all():
        raise ValueError(f"{path}: the data hold NaN or infinity")
    if labels is None:
        return Data(torch.from_numpy(data).float())
    if labels.shape != (len(data),) or labels.min() < 0 or (labels != labels.astype(int)).any():
        raise ValueError(f"{path}: expected whole labels >= 0, one for each of {len(data)} samples")
    return Data(torch.from_numpy(data).float(), torch.from_numpy(labels.astype(np.int64)))


def _folder(path: Path) -> Data:
    from matplotlib.image import imread

    files = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGES)
    if not files:
        raise ValueError(f"{path}: no images in it ({', '.join(IMAGES)})")
    arrays = []
    for file in files:
        pixels = np.asarray(imread(file))
        pixels = pixels / 255 if pixels.dtype == np.uint8 else pixels
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels[..., :3]
        arrays.append(pixels.transpose(2, 0, 1).astype(np.float32) * 2 - 1)
        if arrays[-1].shape != arrays[0].shape:
            raise ValueError(
                f"{file}: of shape {arrays[-1].shape}, but {files[0]} of {arrays[0].shape}; bring "
                "all images to one size"
            )
    samples = torch.from_numpy(np.stack(arrays))
    parents = [file.relative_to(path).parts[:-1] for file in files]
    classes = sorted(set(parents))
    if len(classes) < 2:
        return Data(samples)
    return Data(samples, torch.tensor([classes.index(parent) for parent in parents]))
