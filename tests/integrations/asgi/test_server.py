"""One real server: `fastgen serve` under uvicorn, killed and started again."""

import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from fastgen.cli import main
from tests.generation import sets

ROOT = Path(__file__).parents[3]
NETS = """
import time
from tests.generation import sets

def model():
    made = sets.model()
    made.net.register_forward_pre_hook(lambda *_: time.sleep(0.03))
    return made
"""
LINE = "nets:model --shape 1,4,4 --steps 6 --solver euler --option start=0.99 --rows 4 --classes 3"


class Server:
    """A process with `fastgen serve`, and requests to it."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.command = [sys.executable, "-m", "fastgen", "serve", *LINE.split()]
        self.command += ["--port", str(self.port)]
        self.folder = folder
        self.start()

    def start(self):
        own = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        own["FASTGEN_TOKEN"] = "s3cret"
        self.process = subprocess.Popen(self.command, cwd=self.folder, env=own)
        for _ in range(600):
            try:
                return self.health()
            except OSError:
                assert self.process.poll() is None
                time.sleep(0.1)
        raise TimeoutError

    def connection(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def health(self):
        connection = self.connection()
        connection.request("GET", "/health")
        return json.loads(connection.getresponse().read())

    def ask(self, **told):
        connection = self.connection()
        head = {"Authorization": "Bearer s3cret"}
        connection.request("POST", "/sample", json.dumps(told), head)
        return connection

    def sample(self, **told):
        found = self.ask(**told).getresponse()
        content = found.read()
        assert found.status == 200, content
        return torch.from_numpy(np.load(io.BytesIO(content), allow_pickle=False))


@pytest.fixture
def server(tmp_path):
    for name in ("starlette", "prometheus_client", "uvicorn"):
        pytest.importorskip(name)
    (tmp_path / "nets.py").write_text(NETS)
    made = Server(tmp_path)
    yield made
    made.process.kill()
    made.process.wait()


def test_a_server_that_is_killed_and_clients_that_leave(server):
    told = {"seed": 5, "ids": [3, 9], "labels": [0, 2]}
    x = server.sample(**told)
    alone = sets.sampler(solver="euler")
    import fastgen

    plan = fastgen.plan("euler", alone.model.schedule, 6, start=0.99)
    batch = fastgen.Sampler(alone.model, plan).serve(
        (4, *sets.SHAPE), labels=torch.zeros(4, dtype=torch.int64)
    )
    for i, label in zip(told["ids"], told["labels"], strict=True):
        batch.admit(seed=5, sample_id=i, labels=torch.tensor(label))
    while batch.active:
        done = batch.step()
    assert torch.equal(x, torch.stack(list(done.values())))

    # Sixty-four samples take a hundred calls; who asked for them leaves after the first.
    leaving = server.ask(count=64, label=0)
    while not server.health()["active"]:
        time.sleep(0.01)
    leaving.close()
    begin = time.monotonic()
    while server.health()["active"]:
        assert time.monotonic() < begin + 1.0  # of the three seconds that they take
        time.sleep(0.01)

    # A request under way when the process is killed fails; asked again it has the same bits.
    lost = server.ask(**told)
    while not server.health()["active"]:
        time.sleep(0.01)
    server.process.send_signal(signal.SIGKILL)
    server.process.wait()
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        lost.getresponse()
    server.start()
    assert torch.equal(server.sample(**told), x)

    # Asked to end, it ends by itself.
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(timeout=30) in (0, -signal.SIGINT)


@pytest.mark.slow
def test_a_killed_server_loses_its_own_requests_which_clients_repeat(server, tmp_path, monkeypatch):
    """The client of the page: twelve of them at two servers, of which one is killed."""
    requests = pytest.importorskip("requests")
    page = (ROOT / "docs/howto/serving.md").read_text()
    (code,) = re.findall(r"```python\n(import io.*?)\nfour = ", page, re.S)
    post = requests.Session.post
    head = {"Authorization": "Bearer s3cret"}
    monkeypatch.setattr(
        requests.Session, "post", lambda *a, **options: post(*a, headers=head, **options)
    )
    other = Server(tmp_path)
    try:
        expected = [server.sample(seed=5, ids=[i], label=i % 3) for i in range(12)]

        def client(i):
            known = {}
            exec(code, known)  # a session of its own for each
            at = (server, other)[i % 2]
            asked = {"seed": 5, "ids": [i], "label": i % 3}
            return known["samples"](f"http://127.0.0.1:{at.port}", **asked)

        with ThreadPoolExecutor(12) as pool:
            answers = [pool.submit(client, i) for i in range(12)]
            while server.health()["active"] < 4:
                time.sleep(0.01)
            server.process.send_signal(signal.SIGKILL)
            server.process.wait()
            assert sum(answer.done() for answer in answers[::2]) < 6
            server.start()
            for i, answer in enumerate(answers):
                assert torch.equal(torch.from_numpy(answer.result(60)), expected[i])
    finally:
        other.process.kill()
        other.process.wait()


class TestCommand:
    @pytest.fixture(autouse=True)
    def _installed(self):
        for name in ("starlette", "prometheus_client", "uvicorn"):
            pytest.importorskip(name)

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("--host 0.0.0.0", "others reach it; give --token-file"),
            ("--host example.org", "others reach it"),
            ("--also fast", "expected NAME=PLAN.json"),
            ("--rows 0", "rows=0"),
            ("--guidance 2", "give --null too"),
            ("--token-file nowhere", "No such file"),
            ("--deadline 0", "deadline=0"),
        ],
    )
    def test_refusals(self, line, message, capsys, monkeypatch, tmp_path):
        monkeypatch.delenv("FASTGEN_TOKEN", raising=False)
        monkeypatch.chdir(tmp_path)
        (tmp_path / "nets.py").write_text(NETS)
        monkeypatch.delitem(sys.modules, "nets", raising=False)
        assert main(["serve", *LINE.split(), *line.split()]) == 2
        assert message in capsys.readouterr().err

    def test_what_it_makes(self, monkeypatch, tmp_path):
        import uvicorn
        from starlette.testclient import TestClient

        monkeypatch.chdir(tmp_path)
        (tmp_path / "nets.py").write_text(NETS)
        monkeypatch.delitem(sys.modules, "nets", raising=False)
        plan = sets.sampler(solver="euler").plan
        (tmp_path / "short.json").write_text(plan.to_json())
        (tmp_path / "token").write_text("s3cret\n")
        made = {}
        monkeypatch.setattr(uvicorn, "run", lambda app, **options: made.update(options, app=app))
        line = "--guidance 2 --null 3 --also short=short.json --host 0.0.0.0 --token-file token"
        assert main(["serve", *LINE.split(), *line.split(), "--port", "81"]) == 0
        assert (made["host"], made["port"]) == ("0.0.0.0", 81)
        with TestClient(made["app"]) as client:
            assert client.get("/health").json()["plans"] == ["default", "short"]
            told = {"label": 0, "guidance": 1.5, "plan": "short", "format": "json"}
            assert client.post("/sample", json=told).status_code == 401
            head = {"Authorization": "Bearer s3cret"}
            assert client.post("/sample", json=told, headers=head).status_code == 200
