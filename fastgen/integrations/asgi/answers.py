"""Samples as bytes: npy, PNG, JSON; and events of a stream. Nothing is pickled."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastgen.generation.formats.images import CHANNELS, encoded
from fastgen.generation.task import stored_as
from fastgen.integrations.asgi.jobs import Asked, Event

TYPES = {"npy": "application/x-npy", "png": "image/png", "json": "application/json"}


def check_pictures(shape: tuple[int, ...]) -> None:
    """Raise a ValueError for samples that no PNG shows."""
    if len(shape) != 3 or shape[0] not in CHANNELS:
        raise ValueError(f"format='png': samples are {list(shape)}, not [1, 3 or 4, H, W]")


def whole(
    asked: Asked, samples: list[Tensor], limits: tuple[float, float]
) -> tuple[bytes, str, dict[str, str]]:
    """The answer with all samples, [n, ...]: bytes, their type, further headers.

    A PNG has them below one another.
    """
    x = torch.stack(samples)
    facts = {"X-Fastgen-Seed": str(asked.seed), "X-Fastgen-Ids": ",".join(map(str, asked.ids))}
    if asked.format == "json":
        told = {"seed": asked.seed, "ids": list(asked.ids), "shape": list(x.shape)}
        return json.dumps({**told, "samples": x.tolist()}).encode(), TYPES["json"], {}
    if asked.format == "png":
        rows = stored_as(x, "uint8", limits).numpy()
        return encoded(np.concatenate(list(rows), 1)), TYPES["png"], facts
    return _npy(x), TYPES["npy"], facts


def event(asked: Asked, found: Event, limits: tuple[float, float]) -> bytes:
    """An event of a stream (text/event-stream), with numbers as base64 of npy or PNG."""
    told: dict[str, Any] = {}
    if found.value is not None:
        told = {"id": asked.ids[found.number], "seed": asked.seed}
        if found.kind == "preview":
            told |= {"evaluations": found.done, "of": found.of}
        if asked.format == "json":
            told["sample"] = found.value.tolist()
        elif asked.format == "png":
            picture = stored_as(found.value, "uint8", limits).numpy()
            told["png"] = base64.b64encode(encoded(picture)).decode()
        else:
            told["npy"] = base64.b64encode(_npy(found.value)).decode()
    if found.error is not None:
        told = {"error": str(found.error)}
    return f"event: {found.kind}\ndata: {json.dumps(told)}\n\n".encode()


def _npy(x: Tensor) -> bytes:
    made = io.BytesIO()
    np.save(made, x.numpy(), allow_pickle=False)
    return made.getvalue()
