"""Samples over HTTP: the bits of the batch, limits, deadlines, and clients that leave."""

import base64
import io
import json
import threading
import time

import numpy as np
import pytest
import torch

pytest.importorskip("starlette")
pytest.importorskip("prometheus_client")
pytest.importorskip("httpx")
from starlette.testclient import TestClient

import fastgen
from fastgen.integrations.asgi import Engine, FullError, Limits, application
from fastgen.integrations.asgi.jobs import Asked
from tests.generation import sets

ROWS = 4


def sampler(guidance=True, **options):
    null = {"labels": torch.full((ROWS,), 3)}
    made = fastgen.Guidance(2.0, null) if guidance else None
    return sets.sampler(solver="dpmpp_2m", guidance=made, **options)


def expected(ids, labels, seed=5, scale=2.0, given=None):
    """Each sample alone in a batch of the engine's size: the row does not matter to the bits."""
    given = given or sampler()
    batch = given.serve((ROWS, *sets.SHAPE), labels=torch.zeros(ROWS, dtype=torch.int64))
    found = []
    for i, label in zip(ids, labels, strict=True):
        own = {"labels": torch.tensor(label)}
        ticket = batch.admit(seed=seed, sample_id=i, scale=scale, net_kwargs=own)
        while batch.active:
            done = batch.step()
        found.append(done[ticket])
    return torch.stack(found)


def engine(**options):
    return Engine(sampler(), sets.SHAPE, rows=ROWS, classes=3, **options)


@pytest.fixture
def client():
    fast = fastgen.plan("dpmpp_2m", sets.model().schedule, 2, start=0.99)
    with TestClient(application(engine(plans={"fast": fast}))) as found:
        yield found


def array(response):
    assert response.status_code == 200, response.text
    return torch.from_numpy(np.load(io.BytesIO(response.content), allow_pickle=False))


def events(text):
    """(name, data) of the server-sent events."""
    parts = [part.split("\n", 1) for part in text.strip().split("\n\n")]
    return [(a.removeprefix("event: "), json.loads(b.removeprefix("data: "))) for a, b in parts]


class Gate:
    """A network that waits until it is let through."""

    def __init__(self, made):
        self.open, self.inside, self.calls = threading.Event(), threading.Event(), 0
        self.hook = made.model.net.register_forward_pre_hook(self)

    def __call__(self, *_):
        self.calls += 1
        self.inside.set()
        assert self.open.wait(30)


class TestSamples:
    def test_npy_json_and_png(self, client):
        told = {"seed": 5, "ids": [7, 2, 9, 40, 3], "labels": [0, 1, 2, 0, 1]}
        found = client.post("/sample", json=told)
        x = array(found)
        assert torch.equal(x, expected(told["ids"], told["labels"]))
        assert found.headers["content-type"] == "application/x-npy"
        assert found.headers["x-fastgen-ids"] == "7,2,9,40,3"
        listed = client.post("/sample", json={**told, "format": "json"}).json()
        assert torch.equal(torch.tensor(listed["samples"]), x)
        assert (listed["ids"], listed["shape"]) == (told["ids"], [5, 1, 4, 4])
        image = pytest.importorskip("PIL.Image")
        png = client.post("/sample", json={**told, "format": "png"})
        pixels = np.asarray(image.open(io.BytesIO(png.content)))
        rounded = (x * 127.5 + 128).clamp(0, 255).to(torch.uint8)
        assert (pixels == rounded.reshape(20, 4).numpy()).all()

    def test_guidance_and_plans(self, client):
        told = {"seed": 5, "first": 3, "count": 2, "label": 1}
        strong = array(client.post("/sample", json={**told, "guidance": 4.5}))
        assert torch.equal(strong, expected([3, 4], [1, 1], scale=4.5))
        fast = array(client.post("/sample", json={**told, "plan": "fast"}))
        assert fast.shape == strong.shape
        assert not torch.equal(fast, strong)

    def test_a_stream_with_previews(self, client):
        told = {"seed": 5, "ids": [7, 2], "label": 1, "stream": True, "previews": 2}
        response = client.post("/sample", json=told)
        assert response.headers["content-type"].startswith("text/event-stream")
        found = events(response.text)
        names = [name for name, _ in found]
        assert names == ["preview", "preview", "sample", "sample", "done"]
        assert [(d["id"], d["evaluations"], d["of"]) for _, d in found[:2]] == [
            (7, 2, 4),
            (2, 2, 4),
        ]
        for (_, data), x in zip(found[2:4], expected([7, 2], [1, 1]), strict=True):
            held = np.load(io.BytesIO(base64.b64decode(data["npy"])), allow_pickle=False)
            assert torch.equal(torch.from_numpy(held), x)

    def test_many_clients_at_once(self, client):
        answers = {}

        def ask(i):
            told = {"seed": 5, "first": 10 * i, "count": 3, "label": i % 3}
            answers[i] = array(client.post("/sample", json=told))

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for i in range(8):
            ids = range(10 * i, 10 * i + 3)
            assert torch.equal(answers[i], expected(ids, [i % 3] * 3))

    def test_decoded(self):
        made = Engine(
            sampler(), sets.SHAPE, rows=ROWS, classes=3, decode=lambda x: x.flatten(1) * 2
        )
        assert made.sample_shape == (16,)
        with TestClient(application(made)) as client:
            x = array(client.post("/sample", json={"seed": 5, "label": 0}))
            assert torch.equal(x, expected([0], [0]).flatten(1) * 2)
            png = client.post("/sample", json={"label": 0, "format": "png"})
            assert png.status_code == 400
            assert "not [1, 3 or 4, H, W]" in png.json()["error"]


class TestRefusals:
    @pytest.mark.parametrize(
        ("told", "message"),
        [
            ({"sed": 1, "label": 0}, "did you mean 'seed'"),
            ({"seed": -1, "label": 0}, "seed=-1"),
            ({"seed": 1.5, "label": 0}, "seed=1.5"),
            ({"ids": [], "label": 0}, "ids=[]"),
            ({"ids": [1], "count": 2, "label": 0}, "either ids, or first and count"),
            ({"ids": [2**50], "label": 0}, "2^48"),
            ({"count": 65, "label": 0}, "count=65"),
            ({"ids": list(range(65)), "label": 0}, "65 samples; a request may ask for 64"),
            ({}, "label, labels: give one"),
            ({"label": 3}, "label=3"),
            ({"labels": [0, 1]}, "expected a list of 1"),
            ({"label": 0, "plan": "fst"}, "did you mean 'fast'"),
            ({"label": 0, "guidance": "2"}, "guidance='2'"),
            ({"label": 0, "format": "pickle"}, "format='pickle'"),
            ({"label": 0, "deadline": 0}, "deadline=0"),
            ({"label": 0, "deadline": 1e9}, "expected seconds in (0, 120]"),
            ({"label": 0, "previews": 2}, "give stream: true"),
            ({"label": 0, "stream": 1}, "stream=1"),
            ([1], "expected a JSON object"),
        ],
        ids=lambda v: None if isinstance(v, str) else "-".join(map(str, v))[:30],
    )
    def test_what_is_asked(self, told, message, client):
        found = client.post("/sample", json=told)
        assert found.status_code == 400
        assert message in found.json()["error"]

    def test_bodies(self, client):
        found = client.post("/sample", content=b"{" * 40_000)
        assert found.status_code == 400
        assert "not JSON" in found.json()["error"]
        assert client.post("/sample", content=b" " * 70_000).status_code == 413
        assert client.get("/sample").status_code == 405

    def test_without_labels_or_guidance(self):
        schedule = fastgen.schedules.Rectified()
        model = fastgen.Model(lambda x, t: -x, schedule, "velocity")
        plain = fastgen.Sampler(model, fastgen.plan("euler", schedule, 2))
        with TestClient(application(Engine(plain, (2,), rows=2))) as client:
            for told in ({"label": 0}, {"guidance": 2}):
                found = client.post("/sample", json=told)
                assert found.status_code == 400
                assert "this server" in found.json()["error"]
            assert torch.equal(array(client.post("/sample", json={})), plain((1, 2)))

    def test_the_token(self):
        with TestClient(application(engine(), token="s3cret")) as client:
            assert client.get("/health").status_code == 200
            for headers in ({}, {"Authorization": "Bearer other"}, {"Authorization": "s3cret"}):
                assert client.get("/metrics", headers=headers).status_code == 401
                found = client.post("/sample", json={"label": 0}, headers=headers)
                assert found.status_code == 401
            right = {"Authorization": "Bearer s3cret"}
            assert client.post("/sample", json={"label": 0}, headers=right).status_code == 200
        with pytest.raises(ValueError, match="token"):
            application(engine(), token="two words")


class TestUnderLoad:
    def gated(self, **options):
        made = sampler()
        gate = Gate(made)
        own = Engine(made, sets.SHAPE, rows=ROWS, classes=3, limits=Limits(**options))
        return gate, own

    def test_a_full_queue(self):
        gate, own = self.gated(queue=3)
        with TestClient(application(own)) as client:
            held = threading.Thread(
                target=client.post, args=("/sample",), kwargs={"json": {"label": 0, "count": 7}}
            )
            held.start()
            assert gate.inside.wait(30)
            found = client.post("/sample", json={"label": 0})
            assert found.status_code == 429
            assert int(found.headers["retry-after"]) >= 1
            gate.open.set()
            held.join()
            assert client.post("/sample", json={"label": 0}).status_code == 200
            page = client.get("/metrics").text
        assert 'fastgen_requests_total{status="429"} 1.0' in page
        assert 'fastgen_requests_total{status="200"} 2.0' in page
        assert "fastgen_samples 8.0" in page
        assert "fastgen_request_seconds_count 2.0" in page

    def test_deadlines_of_what_waits_and_of_what_is_drawn(self):
        gate, own = self.gated()
        with TestClient(application(own)) as client:
            answers = {}

            def ask(name, count):
                told = {"label": 0, "count": count, "deadline": 0.3}
                answers[name] = client.post("/sample", json=told)

            first = threading.Thread(target=ask, args=("drawn", 4))
            first.start()
            assert gate.inside.wait(30)
            second = threading.Thread(target=ask, args=("waits", 1))
            second.start()
            time.sleep(0.5)
            gate.open.set()
            first.join()
            second.join()
            for found in answers.values():
                assert found.status_code == 504
                assert "not done in 0.3 seconds" in found.json()["error"]
            assert own.active == own.waiting == 0
            assert client.post("/sample", json={"label": 0}).status_code == 200

    def test_who_leaves_frees_its_rows_before_the_next_call(self):
        gate, own = self.gated()
        told = Asked(5, (0, 1, 2, 3, 4, 5), "default", None, (0,) * 6, "npy", 60.0, False, 0)
        heard = []
        job = own.submit(told, heard.append)
        assert gate.inside.wait(30)
        own.cancel(job)
        other = threading.Event()
        seen = []

        def tell(event):
            seen.append(event)
            if event.kind == "done":
                other.set()

        own.submit(told._replace(ids=(9,), labels=(1,)), tell)
        gate.open.set()
        assert other.wait(30)
        assert heard == []
        assert gate.calls == 1 + 4  # one that both were in, none after it for who has left
        assert torch.equal(seen[0].value, expected([9], [1])[0])
        own.stop()
        assert not own.alive
        with pytest.raises(RuntimeError, match="has stopped"):
            own.submit(told, tell)

    def test_a_network_that_fails_fails_its_requests_alone(self):
        made = sampler()
        net, bad = made.model.net, threading.Event()
        net.register_forward_pre_hook(lambda *_: 1 / 0 if bad.is_set() else None)
        with TestClient(application(Engine(made, sets.SHAPE, rows=ROWS, classes=3))) as client:
            bad.set()
            found = client.post("/sample", json={"label": 0, "count": 2})
            assert (found.status_code, found.json()) == (500, {"error": "division by zero"})
            bad.clear()
            x = array(client.post("/sample", json={"seed": 5, "label": 0}))
            assert torch.equal(x, expected([0], [0]))

    def test_nan_is_an_error(self):
        made = sampler()
        made.model.net.register_forward_hook(lambda net, x, y: y * torch.nan)
        with TestClient(application(Engine(made, sets.SHAPE, rows=ROWS, classes=3))) as client:
            found = client.post("/sample", json={"label": 0, "count": 3})
            assert found.status_code == 500
            assert "NaN" in found.json()["error"]

    def test_health(self):
        own = engine()
        with TestClient(application(own)) as client:
            found = client.get("/health").json()
            assert found["status"] == "ok"
            assert (found["rows"], found["plans"], found["shape"]) == (4, ["default"], [1, 4, 4])
            own.stop()
            assert client.get("/health").status_code == 503
            assert client.post("/sample", json={"label": 0}).status_code == 503

    def test_limits_are_checked(self):
        for name, value in (("queue", 0), ("count", 0), ("body", 0), ("deadline", 0)):
            with pytest.raises(ValueError, match=name):
                Limits(**{name: value})
        assert FullError(2.2).seconds == 3
