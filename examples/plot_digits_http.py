"""
Over HTTP: previews while a digit is drawn
==========================================

``fastgen serve`` puts a model behind HTTP: requests share one batch, and one that asks for a stream
is sent what the network thinks of its sample on the way. The picture shows such streams of five
requests that came at once, a line for each: the data prediction after every second call of the
network, and the sample at the end. Noise is gone early, and what the digit is to be is often
decided in the first calls.
"""

import base64
import io
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from starlette.testclient import TestClient

import fastgen
from fastgen.datasets import load_digits
from fastgen.integrations.asgi import Engine, application
from fastgen.networks import ModulatedMLP
from fastgen.training import Flow, Settings, Trainer

# %%
# The network: a flow of the digits with labels, trained in ten seconds, or taken as another example
# left it.
digits = load_digits().train
objective = Flow()
torch.manual_seed(0)
network = ModulatedMLP((1, 8, 8), width=128, blocks=2, classes=10)
settings = Settings(steps=1200, learning_rate=2e-3)
trainer = Trainer(network, objective.loss, digits.images, settings, digits.labels)
checkpoint = Path("out/digits.safetensors")
if checkpoint.exists():
    trainer.resume(checkpoint)
trainer.run(checkpoint=checkpoint)
model = objective.model(trainer.average)

# %%
# The application that ``fastgen serve out/digits.safetensors --steps 16 --classes 10`` runs under
# uvicorn; here starlette's client talks to it without a port.
sampler = fastgen.Sampler(model, fastgen.plan("dpmpp_2m", model.schedule, 16))
engine = Engine(sampler, (1, 8, 8), rows=8, classes=10)
LABELS = [2, 3, 5, 7, 8]
asked = {"seed": 4, "ids": list(range(5)), "labels": LABELS, "stream": True, "previews": 2}
with TestClient(application(engine)) as client:
    text = client.post("/sample", json=asked).text
    print(client.get("/health").json())


def array(event):
    """The numbers of an event."""
    return np.load(io.BytesIO(base64.b64decode(event["npy"])), allow_pickle=False)[0]


# %%
# The stream is server-sent events: previews with the number of evaluations, samples, and an end.
lines = {i: {} for i in asked["ids"]}
for part in text.strip().split("\n\n"):
    name, data = (line.partition(": ")[2] for line in part.split("\n"))
    event = json.loads(data)
    if name in ("preview", "sample"):
        lines[event["id"]][event.get("evaluations", 16)] = array(event)

# %%
# A line for each request.
steps = sorted(lines[0])
figure, axes = plt.subplots(5, len(steps), figsize=(9, 5.2), layout="constrained")
for row, (i, shown) in zip(axes, lines.items(), strict=True):
    for axis, step in zip(row, steps, strict=True):
        axis.imshow(-shown[step], cmap="gray", vmin=-1, vmax=1)
        axis.set(xticks=[], yticks=[])
    row[0].set_ylabel(f"label {LABELS[i]}", rotation=0, ha="right", va="center")
for axis, step in zip(axes[0], steps, strict=True):
    axis.set_title("sample" if step == 16 else f"{step} calls", fontsize=9)

# %%
# What came at the end are the samples that a batch of the same size gives without a server.
alone = sampler((8, 1, 8, 8), seed=4, labels=torch.tensor([*LABELS, 0, 0, 0]))[:5]
apart = max(float(np.abs(lines[i][16] - alone[i, 0].numpy()).max()) for i in asked["ids"])
print(f"apart from a plain run by {apart:.1e}")
plt.show()
