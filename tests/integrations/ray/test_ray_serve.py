"""Two replicas of Ray Serve answer with the bits of one batch."""

import http.client
import io
import json
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("ray")
pytest.importorskip("starlette")
pytest.importorskip("ray.serve", exc_type=ImportError)
import ray
from ray import serve

from fastgen.integrations.ray import deployment
from tests.generation import sets
from tests.integrations.ray import served

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.filterwarnings("ignore")


def test_replicas(tmp_path):
    path = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"
    own = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray.init(
        num_cpus=3, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": own}
    )
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(deployment(served.app, replicas=2, cpus=0.5))
        batch = sets.sampler().serve((4, *sets.SHAPE), labels=torch.zeros(4).long())
        for i in range(6):
            ticket = batch.admit(seed=5, sample_id=i, labels=torch.tensor(i % 3))
            while batch.active:
                done = batch.step()
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            told = {"seed": 5, "ids": [i], "label": i % 3}
            connection.request("POST", "/sample", json.dumps(told))
            found = np.load(io.BytesIO(connection.getresponse().read()), allow_pickle=False)
            assert torch.equal(torch.from_numpy(found)[0], done[ticket])
    finally:
        serve.shutdown()
        ray.shutdown()
