"""
Serving: requests at different steps in one batch
=================================================

Requests come when they come, and want different plans. A served batch is a number of rows, each a
place for one request at its own step of its own plan; every network call serves all of them. The
picture shows rows over calls: a row is free again in the call after its request is finished, and
the next request takes it. Each digit is the one that a run alone gives, whatever it shared its
calls with.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch

import fastgen
from fastgen.datasets import load_digits
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
# Four rows, three plans of 6, 10 and 16 evaluations. In each call one request arrives with
# probability 0.4; it waits if no row is free.
schedule = model.schedule
plans = {
    "euler, 6": fastgen.plan("euler", schedule, 6),
    "dpmpp_2m, 10": fastgen.plan("dpmpp_2m", schedule, 10),
    "ddim (SDE), 16": fastgen.plan("ddim", schedule, 16, eta=1.0),
}
names = list(plans)
sampler = fastgen.Sampler(model, plans[names[0]])
served = sampler.serve(
    (4, 1, 8, 8), plans=list(plans.values())[1:], labels=torch.zeros(4, dtype=torch.int64)
)

# %%
# The loop of a server: admit while there is room, step, hand out what is finished.
generator = torch.Generator().manual_seed(1)
arrivals = torch.rand(40, generator=generator) < 0.4
kinds = torch.randint(3, (40,), generator=generator).tolist()
waiting, places, finished = [], {}, {}
call = made = 0
while call < 40 or waiting or served.active:
    if call < 40 and arrivals[call]:
        waiting.append((made, kinds[call]))
        made += 1
    while waiting and served.free:
        number, kind = waiting.pop(0)
        ticket = served.admit(
            seed=number, plan=plans[names[kind]], labels=torch.tensor(number % 10)
        )
        taken = {p["row"] for p in places.values() if p["end"] is None}
        row = min(set(range(4)) - taken)
        places[ticket] = {"number": number, "kind": kind, "row": row, "begin": call, "end": None}
    for ticket, x in served.step().items():
        places[ticket]["end"], finished[ticket] = call + 1, x
    call += 1

# %%
# Every request is one bar in the colour of its plan, with its digit at the end.
figure, axis = plt.subplots(figsize=(11, 3), layout="constrained")
for ticket, place in places.items():
    begin, end, row, kind = place["begin"], place["end"], place["row"], place["kind"]
    axis.barh(row, end - begin, left=begin, height=0.8, color=f"C{kind}", edgecolor="white")
    extent = (end - 1.7, end - 0.2, row + 0.34, row - 0.34)
    axis.imshow(-finished[ticket][0], cmap="gray", vmin=-1, vmax=1, extent=extent, zorder=2)
    axis.text(begin + 0.3, row, f"{place['number']}", color="white", va="center")
for kind, name in enumerate(names):
    axis.barh(0, 0, color=f"C{kind}", label=name)
axis.set(xlim=(0, call), ylim=(3.6, -0.6), aspect="auto", yticks=range(4))
axis.set(xlabel="calls of the network", ylabel="row of the batch")
axis.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))

# %%
# Alone, the same request gives the same digit.
apart = 0.0
for ticket, place in places.items():
    plan, label = plans[names[place["kind"]]], torch.tensor([place["number"] % 10])
    alone = fastgen.Sampler(model, plan)((1, 1, 8, 8), seed=place["number"], labels=label)
    apart = max(apart, float((alone[0] - finished[ticket]).abs().max()))
print(f"{len(places)} requests in {call} calls; apart from runs alone by at most {apart:.1e}")
plt.show()
