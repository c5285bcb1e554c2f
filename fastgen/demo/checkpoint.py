"""The demonstration on disk: the velocity field and the classifier it is judged by."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from torch import nn

import fastgen.schedules as schedules
from fastgen.demo.classifier import DigitFeatures
from fastgen.model.model import Model
from fastgen.networks import Network, from_config, to_config
from fastgen.schedules import Schedule
from fastgen.training.files import load_strictly, read_safetensors, replacing

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
        from safetensors.torch import save

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
        with replacing(path) as temporary:
            temporary.write_bytes(save(tensors, metadata))

    @staticmethod
    def load(path: Path) -> Checkpoint:
        """Rebuild the networks that `save` stored.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is not a whole safetensors file of this demonstration.
        """
        tensors, metadata = read_safetensors(path)
        if metadata.get(FORMAT) != VERSION:
            raise ValueError(f"{path}: not a checkpoint of `fastgen demo` (version {VERSION})")
        try:
            network = from_config(json.loads(metadata["network"]))
            schedule = schedules.from_config(json.loads(metadata["schedule"]))
            training = json.loads(metadata["training"])
            result = Checkpoint(network, DigitFeatures(), schedule, **training)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: damaged metadata ({error})") from error
        both = nn.ModuleDict({"network": result.network, "features": result.features})
        load_strictly(both, tensors, path)
        return result
