"""The demonstration on disk: the velocity field and the classifier it is judged by."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import fastgen.schedules as schedules
from fastgen.common.derivatives import outside_inference_mode
from fastgen.common.files import (
    check_weights,
    load_strictly,
    read_object,
    read_safetensors,
    write_safetensors,
)
from fastgen.demo.classifier import DigitFeatures
from fastgen.model.model import Model
from fastgen.networks import Network, from_config, to_config
from fastgen.schedules import Schedule

FORMAT, VERSION = "fastgen_demo", "2"


@dataclass(frozen=True)
class Checkpoint:
    """A trained velocity field, the classifier to judge it by, and how they came about."""

    network: Network
    features: DigitFeatures
    schedule: Schedule
    seed: int
    steps: int
    seconds: float

    def model(self) -> Model:
        """The network as a fastgen model."""
        return Model(self.network, self.schedule, predicts="velocity")

    def save(self, path: Path) -> None:
        """Write to ``path``, whole or not at all."""
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"features.{k}": v for k, v in self.features.state_dict().items()}
        metadata = {
            FORMAT: VERSION,
            "network": json.dumps(to_config(self.network)),
            "schedule": json.dumps(self.schedule.to_config()),
            "training": json.dumps(
                {"seed": self.seed, "steps": self.steps, "seconds": self.seconds}
            ),
        }
        write_safetensors(path, tensors, metadata)

    @staticmethod
    @outside_inference_mode
    def load(path: Path) -> Checkpoint:
        """Rebuild the networks that `save` stored.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is not a whole safetensors file of this demonstration.
        """
        tensors, metadata = read_safetensors(path)
        if metadata.get(FORMAT) != VERSION:
            raise ValueError(f"{path}: not a checkpoint of `fastgen demo` (version {VERSION})")
        facts = {k: read_object(path, metadata, k) for k in ("network", "schedule", "training")}
        features = DigitFeatures()
        try:
            with torch.device("meta"):  # sizes that no weights are of are not allocated
                network = from_config(facts["network"])
            weights = nn.ModuleDict({"network": network, "features": features})
            check_weights(weights, tensors, path)
            network = from_config(facts["network"])
            schedule = schedules.from_config(facts["schedule"])
            made = facts["training"]
            seed, steps, seconds = int(made["seed"]), int(made["steps"]), float(made["seconds"])
            result = Checkpoint(network, features, schedule, seed, steps, seconds)
        except Exception as error:  # whatever the arguments of a damaged file make of a network
            raise ValueError(f"{path}: damaged metadata or weights ({error})") from error
        load_strictly(nn.ModuleDict({"network": network, "features": features}), tensors, path)
        return result
