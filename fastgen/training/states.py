"""A trainer's state: its tensors by name, written by any number of processes, and put back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from fastgen.training import checkpoint, sharded
from fastgen.training.checkpoint import FIELDS
from fastgen.training.run import Run

SUFFIX = ".safetensors"


def trained(network: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters that an optimiser has states of."""
    return [(k, p) for k, p in network.named_parameters() if p.requires_grad]


def tensors(trainer: Run, *, optimiser: bool) -> dict[str, Tensor]:
    """All tensors of a run by name, sharded ones as they are.

    optimiser: whether with its states; of a parameter that had no gradient so far they are as AdamW
    begins.
    """
    found = {f"network.{k}": v for k, v in trainer.network.state_dict().items()}
    found |= {f"average.{k}": v for k, v in trainer.average.state_dict().items()}
    for name, p in trained(trainer.network) if optimiser else []:
        state = trainer.optimiser.state.get(p, {})
        if not state:
            zeros = torch.zeros_like(p)
            state = {
                "exp_avg": zeros,
                "exp_avg_sq": torch.zeros_like(p),
                "step": torch.zeros((), device="cpu"),
            }
        found |= {f"optimiser.{field}.{name}": state[field].detach() for field in FIELDS}
    return found


def save(trainer: Run, path: Path) -> None:
    """See `Trainer.save`."""
    found, engine = tensors(trainer, optimiser=trainer.step > 0), trainer.engine
    facts = (trainer.step, trainer.settings, trainer.description)
    if path.suffix != SUFFIX:
        sharded.write(path, found, checkpoint.metadata_of(*facts), trainer.step, engine)
        return
    whole = {k: sharded.full(v, keep=not engine.rank) for k, v in found.items()}
    if not engine.rank:
        checkpoint.write(path, whole, *facts)
    engine.wait()


def resume(trainer: Run, path: Path) -> None:
    """See `Trainer.resume`."""
    if path.suffix == SUFFIX or not path.is_dir():
        stored = checkpoint.read(path)
    else:
        like = tensors(trainer, optimiser=True)
        stored = checkpoint.contents_of(path, *sharded.read(path, like))
    parameters = dict(trained(trainer.network))
    stored.check_origin(trainer.settings, trainer.description)
    stored.check_tensors(trainer.network, trainer.average, parameters)
    for name, module in (("network", trainer.network), ("average", trainer.average)):
        module.load_state_dict(_placed(stored.part(name), module.state_dict()))
    trainer.step = stored.step
    states = trainer.optimiser.state
    states.clear()
    for name, p in parameters.items() if stored.step else ():
        state = {field: stored.tensors[f"optimiser.{field}.{name}"] for field in FIELDS}
        step = state.pop("step")
        states[p] = {k: sharded.placed(x, p) for k, x in state.items()}
        states[p]["step"] = step.to(p.device)


def _placed(given: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: sharded.placed(v, like[k]) for k, v in given.items()}
