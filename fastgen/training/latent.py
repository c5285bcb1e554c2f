"""Generative models in the latent space of an encoder and a decoder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastgen.common.checks import check_at_least
from fastgen.common.derivatives import outside_inference_mode
from fastgen.common.display import displayed
from fastgen.common.files import (
    check_weights,
    load_strictly,
    read_object,
    read_safetensors,
    write_safetensors,
)
from fastgen.common.hub import LATENT, BesideModel
from fastgen.kernels import Stream
from fastgen.model.model import Model
from fastgen.networks.vae import VAE, Posterior
from fastgen.noise.normals import randn
from fastgen.sampling.sample import AnySolver, sample

FORMAT, VERSION = "fastgen_latent", "1"
# The draw of latents from their posteriors: apart from the steps of a trainer.
POSTERIOR_DRAW = (1 << 32) - 1


@displayed
class Latent(BesideModel):
    """An encoder and a decoder, and the scale and shift between their latents and a model's.

    A model is trained on (z - shift) * scale and what it samples is decoded from x / scale + shift:
    Rombach et al. 2022 (arXiv 2112.10752) take for scale one over the standard deviation.

    ``latent = Latent.of(vae).fit(images)``; ``Trainer(network, loss, latent.encode(images), ...)``;
    ``latent.sample(model, 16, "heun", 10)``.

    Args:
        encode: function of x [B, ...] that returns latents [B, ...], or their `Posterior`.
        decode: function of latents [B, ...] that returns x [B, ...].
        scale, shift: numbers, or tensors that broadcast against one latent.
    """

    _file, _what = LATENT, "an encoder and a decoder"
    _absent = "the model there is not of latents"

    def __init__(
        self,
        encode: Callable[[Tensor], Tensor | Posterior],
        decode: Callable[[Tensor], Tensor],
        scale: float | Tensor = 1.0,
        shift: float | Tensor = 0.0,
    ) -> None:
        self.encoder, self.decoder = encode, decode
        self.network: VAE | None = None
        self.scale, self.shift = (
            x if isinstance(x, Tensor) else torch.tensor(x, device="cpu") for x in (scale, shift)
        )
        if not bool((self.scale.isfinite() & (self.scale > 0)).all()):
            raise ValueError(f"scale={scale!r}: expected positive numbers")
        if not bool(self.shift.isfinite().all()):
            raise ValueError(f"shift={shift!r}: expected finite numbers")
        self.shape: tuple[int, ...] | None = None

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"network": self.network}
        if self.network is None:
            facts = {"encode": self.encoder, "decode": self.decoder}
        return {**facts, "shape": self.shape, "scale": self.scale, "shift": self.shift}

    @classmethod
    def of(cls, network: VAE, scale: float | Tensor = 1.0, shift: float | Tensor = 0.0) -> Latent:
        """With the encoder and the decoder of a VAE."""
        latent = cls(network.encode, network.decode, scale, shift)
        latent.network = network
        return latent

    def fit(self, data: Tensor, *, seed: int = 0, batch: int = 512) -> Latent:
        """Set scale and shift such that every channel's latents have mean 0 and deviation 1.

        Args:
            data: [N, ...]. seed, batch: as for `encode`.

        Returns:
            self.

        Raises:
            ValueError: if a channel is constant: the encoder does not use it.
        """
        raw = self._encoded(data, seed, batch).double()
        axes = (0, *range(2, raw.ndim))
        deviation = raw.std(axes, correction=0, keepdim=True)[0]
        if not bool((deviation > 0).all()):
            dead = (deviation.flatten() == 0).nonzero().flatten().tolist()
            raise ValueError(f"data: the latents' channels {dead} are constant; train the encoder")
        self.shift = raw.mean(axes, keepdim=True)[0].float()
        self.scale = deviation.reciprocal().float()
        self.shape = tuple(raw.shape[1:])
        return self

    def encode(self, data: Tensor, *, seed: int | None = 0, batch: int = 512) -> Tensor:
        """(z - shift) * scale of data [N, ...], without gradients.

        Args:
            data: [N, ...].
            seed: of draws from the posterior, where the encoder returns one; None: its mean.
            batch: samples encoded at once.
        """
        raw = self._encoded(data, seed, batch)
        self.shape = tuple(raw.shape[1:])
        return (raw - self.shift.to(raw)) * self.scale.to(raw)

    def decode(self, latent: Tensor, *, batch: int = 512) -> Tensor:
        """decoder(latent / scale + shift), [N, ...], without gradients."""
        raw = latent / self.scale.to(latent) + self.shift.to(latent)
        with torch.no_grad():
            parts = [self.decoder(raw[k : k + batch]) for k in range(0, len(raw), batch)]
            return torch.cat(parts)

    def sample(
        self,
        model: Model,
        count_or_latent: int | Tensor,
        solver: AnySolver = "auto",
        steps: int | None = None,
        **options: Any,
    ) -> Tensor:
        """``decode(fastgen.sample(model, ...))``.

        Args:
            model: of latents.
            count_or_latent: how many samples, or the initial latents [B, ...].
            solver, steps, options: as for `fastgen.sample`: seed, guidance, net_kwargs ...

        Raises:
            ValueError: if the latents' shape is unknown (`fit` or `encode` data first), or for
                options whose result is not the samples alone.
        """
        if options.get("trajectory"):
            raise ValueError("trajectory: sample the latents with fastgen.sample, then decode them")
        start: Sequence[int] | Tensor
        if isinstance(count_or_latent, Tensor):
            start = count_or_latent
        elif self.shape is None:
            raise ValueError("count_or_latent: the latents' shape is unknown; call fit(data) first")
        else:
            start = (count_or_latent, *self.shape)
        return self.decode(sample(model, start, solver, steps, **options).clone())

    def save(self, path: Path | str) -> None:
        """Write VAE, scale, shift and shape, whole or not at all.

        Raises:
            ValueError: if encoder and decoder are not those of a VAE (`Latent.of`).
        """
        if self.network is None:
            raise ValueError("save: only of Latent.of(vae); store your own encoder and decoder")
        tensors = {f"vae.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {"scale": self.scale, "shift": self.shift}
        facts = {"config": self.network.config, "shape": self.shape}
        write_safetensors(path, tensors, {FORMAT: VERSION, "facts": json.dumps(facts)})

    @staticmethod
    @outside_inference_mode
    def load(path: Path | str) -> Latent:
        """What `save` wrote.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is damaged or of another kind.
        """
        path = Path(path)
        tensors, metadata = read_safetensors(path)
        if metadata.get(FORMAT) != VERSION or not {"scale", "shift"} <= tensors.keys():
            raise ValueError(f"{path}: not written by Latent.save (version {VERSION})")
        facts = read_object(path, metadata, "facts")
        scale, shift = tensors.pop("scale"), tensors.pop("shift")
        weights = {k.removeprefix("vae."): v for k, v in tensors.items()}
        try:
            with torch.device("meta"):  # sizes that no weights are of are not allocated
                check_weights(VAE(**facts["config"]), weights, path)
            network = VAE(**facts["config"])
            latent = Latent.of(network, scale, shift)
            latent.shape = None if facts["shape"] is None else tuple(map(int, facts["shape"]))
        except Exception as error:  # whatever the arguments of a damaged file make of a network
            raise ValueError(f"{path}: damaged metadata or weights ({error})") from error
        load_strictly(network, weights, path)
        network.requires_grad_(False).eval()
        return latent

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        """Write latent.safetensors beside a model of the latents; ``fastgen sample`` then decodes.

        Args:
            save_directory: the folder of `Model.save_pretrained`.

        Raises:
            ValueError: as for `save`.
        """
        self.save(Path(save_directory) / LATENT)

    @classmethod
    def _read(cls, path: Path) -> Latent:
        return Latent.load(path)

    def _encoded(self, data: Tensor, seed: int | None, batch: int) -> Tensor:
        if data.ndim < 2 or len(data) == 0:
            raise ValueError(f"data: expected [N, ...], not empty, got {tuple(data.shape)}")
        check_at_least("batch", batch, 1)
        parts = []
        for first in range(0, len(data), batch):
            with torch.no_grad():
                found = self.encoder(data[first : first + batch])
            if isinstance(found, Posterior):
                found = (
                    found.mean if seed is None else found.sample(_noise(found.mean, seed, first))
                )
            parts.append(found)
        return torch.cat(parts)


def _noise(like: Tensor, seed: int, first: int) -> Tensor:
    return randn(
        like.shape,
        seed=seed,
        sample_ids=range(first, first + len(like)),
        draw=POSTERIOR_DRAW,
        stream=Stream.TRAINING,
        dtype=like.dtype,
        device=like.device,
    )
