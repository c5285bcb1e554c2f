"""
Training on any number of processes
===================================

With accelerate as its engine a ``Trainer`` runs the same program on one CPU, on several GPUs or
nodes under ``torchrun``, sharded or in half precision. Order, noise and times are functions of
(seed, step, row of the batch): the losses do not depend on the number of processes.
"""

# %%
# Digits and their labels. A tenth of the labels is left out at random, so that one network serves
# guidance. The held-out loss is that of the averaged weights, with equal noise each time.

import matplotlib.pyplot as plt
import torch

import fastgen
from fastgen import plots
from fastgen.integrations.accelerate import Accelerated
from fastgen.training import Flow, Settings, Trainer

torch.manual_seed(0)
digits, objective = fastgen.datasets.load_digits(), Flow()
trainer = Trainer(
    fastgen.networks.ModulatedMLP((1, 8, 8), width=128, blocks=2, classes=10),
    objective.loss,
    digits.train.images,
    Settings(steps=800, batch=128, learning_rate=2e-3, average=0.99),
    digits.train.labels,
    engine=Accelerated(),
    validation=(digits.held_out_a.images, digits.held_out_a.labels),
)

# %%
# Every hundred steps the same eight samples are drawn of the averaged weights.
# ``plots.TrainingSheets`` does that for trackers and files; any function of the trainer may watch.

sheets = plots.TrainingSheets(
    objective, (1, 8, 8), "heun", 10, count=8, net_kwargs={"labels": torch.arange(8)}
)
grown = []
losses = trainer.run(
    validate=100, watch=[(100, lambda trainer: grown.append(sheets.draw(trainer)))]
)
steps, validated = zip(*trainer.validated.items(), strict=True)
print(f"validation loss {validated[0]:.3f} -> {validated[-1]:.3f}")

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
left.plot(losses, color="0.8", linewidth=0.8, label="training")
left.plot(steps, validated, "o-", markersize=3, label="validation, averaged weights")
left.set_xlabel("step")
left.set_ylabel("loss")
left.set_ylim(0, 2)
left.legend(frameon=False)
plots.samples(torch.cat(grown), ax=right, columns=8, invert=True)
right.set_title("the same noise after 100, 200 ... 800 steps", fontsize=9)

# %%
# ``trainer.save("run")`` and ``trainer.resume("run")`` go on where a run stopped, on as many
# processes as there are then; ``trainer.save("flow.safetensors")`` is what `fastgen sample` reads.

plt.show()
