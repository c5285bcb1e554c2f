"""Latent flow matching on handwritten digits, with classifier-free guidance.

A VAE brings 64 pixels to 16 numbers; a flow learns those, with labels that are sometimes dropped,
and what it samples is decoded: Rombach et al. 2022 (arXiv 2112.10752), Dao et al. 2023
(2307.08698).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

import fastgen
from examples.common import Judge, arguments, sheet
from fastgen.demo.train import one_thread
from fastgen.networks import VAE, ModulatedMLP
from fastgen.training import Autoencoding, Flow, Settings, Trainer


@one_thread()
def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Fréchet distances, shares of right labels; writes latent-flow.png, latent.safetensors."""
    options = arguments("latent_flow", "latent flow matching on digits", 1000, argv, width=192)
    judge = Judge(min(800, 10 * options.steps))
    train, labels = judge.digits.train, judge.labels
    settings = Settings(
        steps=options.steps, batch=128, seed=options.seed, clip=1.0, label_dropout=0.2
    )

    autoencoding = Autoencoding(beta=0.05, variance=0.02)
    first = Trainer(VAE(1, 1, 16), autoencoding.loss, train.images, settings)
    first.run()
    vae = first.average
    assert isinstance(vae, VAE)
    latent = fastgen.Latent.of(vae).fit(train.images)
    latent.save(options.out / "latent.safetensors")

    flow, codes = Flow(coupling="label-ot"), latent.encode(train.images)
    network = ModulatedMLP(codes.shape[1:], options.width, classes=10)
    second = Trainer(network, flow.loss, codes, settings, train.labels)
    second.run()
    model = flow.model(second.average)

    held_out = judge.digits.held_out_a.images
    rows = {"held-out digits": held_out, "decoded": latent.decode(latent.encode(held_out))}
    found = {"decoded": judge.distance(rows["decoded"])}
    for scale in (1.0, 2.0):
        name = f"guidance {scale:g}"
        guidance = fastgen.Guidance(scale, {"labels": torch.full_like(labels, 10)})
        rows[name] = latent.sample(
            model, len(labels), "heun", 10, seed=1, guidance=guidance, net_kwargs={"labels": labels}
        )
        found[name] = judge.distance(rows[name])
        found[f"right, {name}"] = judge.accuracy(rows[name])
    found["floor"] = judge.floor
    print("\n".join(f"{k:20} {v:.3f}" for k, v in found.items()))
    mixed = torch.arange(len(labels)) * 37 % len(labels)  # labels come sorted
    sheet({k: x[mixed] for k, x in rows.items()}, options.out / "latent-flow.png")
    return found


if __name__ == "__main__":
    main()
