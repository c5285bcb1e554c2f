"""A score model as the prior of a VAE, on handwritten digits: both parts trained together.

LSGM of Vahdat et al. 2021 (arXiv 2106.05931): encoder, decoder and the score of the latents learn
one bound on the likelihood. Beside it the same networks in two stages: a VAE with a normal prior
first, the score of its latents, with the VAE frozen, second.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from examples.common import Judge, arguments, sheet
from fastgen.demo.train import one_thread
from fastgen.networks import VAE, ModulatedMLP, ScoreVAE
from fastgen.training import Autoencoding, LatentScore, Settings, Trainer


@one_thread()
def main(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Fréchet distances to held-out digits; writes latent-score.png."""
    options = arguments("latent_score", "a score model as the prior", 1000, argv, width=192)
    judge = Judge(min(800, 10 * options.steps))
    images, count = judge.digits.train.images, len(judge.labels)
    settings = Settings(steps=options.steps, batch=128, seed=options.seed, clip=1.0)
    rows: dict[str, Tensor] = {"held-out digits": judge.digits.held_out_a.images}

    def network(vae: VAE) -> ScoreVAE:
        shape = vae.latent_shape(images.shape[1:])
        return ScoreVAE(vae, ModulatedMLP(shape, options.width))

    def sampled(objective: LatentScore, trained: torch.nn.Module) -> Tensor:
        assert isinstance(trained, ScoreVAE)
        latent = objective.latent(trained, images.shape[1:])
        return latent.sample(objective.model(trained), count, "dpmpp_2m", 20, seed=1)

    joint = LatentScore(predicts="v", variance=0.02, beta=0.05, rising=options.steps // 4)
    together = Trainer(network(VAE(1, 1, 16)), joint.loss, images, settings)
    together.run()
    rows["trained together"] = sampled(joint, together.average)

    first = Trainer(VAE(1, 1, 16), Autoencoding(0.05, 0.02).loss, images, settings)
    first.run()
    assert isinstance(first.average, VAE)
    second = LatentScore(predicts="v", frozen=True)
    stages = Trainer(network(first.average), second.loss, images, settings)
    stages.run()
    rows["in two stages"] = sampled(second, stages.average)

    found = {name: judge.distance(x) for name, x in rows.items() if name != "held-out digits"}
    found["floor"] = judge.floor
    print("\n".join(f"{k:20} {v:.3f}" for k, v in found.items()))
    sheet(rows, options.out / "latent-score.png")
    return found


if __name__ == "__main__":
    main()
