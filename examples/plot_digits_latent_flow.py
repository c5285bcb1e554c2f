"""
Latent flow matching, with guidance
===================================

Latent diffusion in the small: an autoencoder brings the 64 pixels of a digit to 16 numbers, a flow
learns those, with labels, and what it samples is decoded (Rombach et al. 2022,
arXiv 2112.10752; Dao et al. 2023, 2307.08698). Decoded digits look smoother than data, as what the
autoencoder drops does not come back.
"""

import matplotlib.pyplot as plt
import torch

import fastgen
from fastgen.datasets import load_digits
from fastgen.networks import MLP, VAE
from fastgen.training import Autoencoding, Flow, Settings, Trainer

# %%
# First the autoencoder, then its latents with mean 0 and deviation 1.
digits = load_digits()
images, labels = digits.train
torch.manual_seed(0)
settings = Settings(steps=400, batch=64, learning_rate=3e-3, clip=1.0)
autoencoder = Trainer(
    VAE(1, 1, width=8), Autoencoding(beta=0.05, variance=0.02).loss, images, settings
)
autoencoder.run()
latent = fastgen.Latent.of(autoencoder.average).fit(images)
codes = latent.encode(images)

# %%
# Then the flow of the latents. Noise is paired optimally within each label, and a fifth of the
# labels is dropped, for guidance.
flow = Flow(coupling="label-ot")
network = MLP(codes.shape[1:], (128, 128, 128), "silu", classes=10)
settings = Settings(steps=1000, batch=128, learning_rate=3e-3, label_dropout=0.2)
trainer = Trainer(network, flow.loss, codes, settings, labels)
trainer.run()
model = flow.model(trainer.average)

# %%
# Three digits of each class: data, the same through the autoencoder, and samples.
held_out = digits.held_out_a
chosen = torch.cat([(held_out.labels == k).nonzero()[:3, 0] for k in range(10)])
wanted = held_out.labels[chosen]
rows = {"held-out digits": held_out.images[chosen]}
rows["decoded again"] = latent.decode(latent.encode(rows["held-out digits"]))
for scale in (1.0, 2.0):
    guidance = fastgen.Guidance(scale, {"labels": torch.full_like(wanted, 10)})
    rows[f"guidance {scale:g}"] = latent.sample(
        model, 30, "heun", 10, seed=1, guidance=guidance, net_kwargs={"labels": wanted}
    )
figure, axes = plt.subplots(4, 1, figsize=(11, 2.6), layout="constrained")
for axis, (name, x) in zip(axes, rows.items(), strict=True):
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1), value=-1)[:, 0]
    axis.imshow(-torch.cat(list(padded), 1), cmap="gray", vmin=-1, vmax=1)
    axis.set(xticks=[], yticks=[])
    axis.set_ylabel(name, rotation=0, ha="right", va="center")
plt.show()
