"""Processes that draw one set and are killed again and again: `python kills.py FOLDER KILLS SEED`.

One process with torch in its memory forks all others, since to import it takes seconds. Between the
kills the number of processes changes, they count on a store or only look at the folder, files are
cut and records lost. At the end a whole set is made by whoever is left. Printed is, as JSON, how
many kills hit somebody, and how many samples have other bits than plain calls of the sampler give,
are not there, or are there twice.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from fastgen.common.files import read_safetensors
from fastgen.generation import Features, Place
from tests.generation import sets

FORMAT = "safetensors"


def run(out, place):
    """One process's part, slow enough to be hit."""
    sampler = sets.sampler()
    net = sampler.model.net
    handle = net.register_forward_pre_hook(lambda *_: time.sleep(0.0005))
    sets.generate(out, sampler, format=FORMAT, features=Features(), place=place)
    handle.remove()


def forked(work):
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def crowd(out, world, port, attempt):
    """So many processes; with a port they have a store in common."""

    def work(rank):
        store = None
        if port is not None:
            store = dist.TCPStore("127.0.0.1", port, timeout=timedelta(seconds=30))
            store = dist.PrefixStore(f"fastgen/{attempt}", store)
        run(out, Place(rank, world, store=store))

    return [forked(lambda rank=rank: work(rank)) for rank in range(world)]


def damage(out, chance):
    """Cut a shard, flip a bit, or lose a record."""
    shards = sorted(out.glob("0*.safetensors"))
    if not shards:
        return
    victim = chance.choice(shards)
    way = chance.randrange(4)
    content = victim.read_bytes()
    if way == 0:
        victim.write_bytes(content[: chance.randrange(len(content))])
    elif way == 1:
        place = chance.randrange(len(content))
        flipped = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        victim.write_bytes(flipped)
    elif way == 2:
        (out / "records" / f"{victim.stem}.json").unlink(missing_ok=True)
    else:
        victim.unlink()


def main(out, kills, seed):
    chance, hit, attempt = random.Random(seed), 0, 0
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    while hit < kills:
        attempt += 1
        if attempt > 4 * kills:
            raise RuntimeError(f"{hit} of {kills} kills after {attempt} attempts")
        world = chance.randint(1, 3)
        children = crowd(out, world, server.port if chance.random() < 0.6 else None, attempt)
        time.sleep(chance.uniform(0.02, 0.3))
        # Now and then one of them alone, whose shard the others draw.
        for child in children[: 1 if chance.random() < 0.3 else world]:
            os.kill(child, signal.SIGKILL)  # of one that has ended: it waits to be looked after
        ended = [os.waitpid(child, 0)[1] for child in children]
        hit += sum(os.WIFSIGNALED(status) for status in ended)
        if any(os.WIFEXITED(status) and os.WEXITSTATUS(status) for status in ended):
            raise RuntimeError("a process failed by itself")
        for _ in range(2 if len(list(out.glob("0*.safetensors"))) < 12 else 10):
            damage(out, chance)
    children = crowd(out, 2, server.port, "last")
    if any(os.waitpid(child, 0)[1] for child in children):
        raise RuntimeError("the last run failed")
    print(json.dumps({"kills": hit, "runs": attempt + 1, **judged(out)}))


def judged(out):
    """What has become of the samples."""
    parts = [read_safetensors(path)[0] for path in sorted(out.glob("0*.safetensors"))]
    ids = torch.cat([part["ids"] for part in parts]).tolist()
    samples = torch.cat([part["samples"] for part in parts])
    expected = sets.by_hand()[ids]
    other = (samples.view(torch.int32) != expected.view(torch.int32)).flatten(1).any(1)
    return {
        "samples with other bits": int(other.sum()),
        "lost": len(set(range(sets.COUNT)) - set(ids)),
        "doubled": len(ids) - len(set(ids)),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
