"""Ctrl-C is answered soon, and threads that cannot be made are done without."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

CALLS = {
    "sliced": "couplings.wasserstein(x[:200_000], y[:200_000], method='sliced', directions=10**5)",
    "points": "couplings.assign(x[:60_000], y[:60_000])",
    "sinkhorn": "couplings.sinkhorn(x[:60_000], y[:60_000], 1e-3, max_iterations=100)",
    "plan": "couplings.wasserstein(x[:3001], y[:3000])",
    "brownian": "BrownianPath((64, 40_000), seed=1).at(torch.linspace(0, 1, 100))",
    "walker": "BrownianPath((64, 40_000), seed=1).steps(torch.linspace(0, 1, 50), torch.ones(49))",
    "blocked": "couplings.assign(cost=torch.rand(2500, 2500) ** 60 * 1e38)",
}


@pytest.mark.parametrize("call", CALLS)
def test_ctrl_c(call):
    program = textwrap.dedent(f"""
        import signal, sys, time, torch
        from fastgen import BrownianPath, couplings
        signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
        torch.set_num_threads(1)
        x, y = torch.randn(200_000, 2), torch.rand(200_000, 2)
        print("ready", flush=True)
        try:
            while True:
                {CALLS[call]}
        except KeyboardInterrupt:
            print(time.thread_time(), flush=True)
            sys.exit(33)
    """)
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert process.stdout.readline() == b"ready\n"
        time.sleep(1)
        before = _processor_time(process.pid)
        process.send_signal(signal.SIGINT)
        after = float(process.stdout.readline())
        assert process.wait(timeout=30) == 33
        assert after - before < 0.5
    finally:
        process.kill()
        process.stdout.close()


def _processor_time(pid):
    """Seconds that a process has used: a busy machine does not count."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        pytest.skip("no /proc here")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_threads_that_cannot_be_made():
    pytest.importorskip("resource")
    program = textwrap.dedent("""
        import os, resource, torch
        from fastgen.couplings import assign
        torch.set_num_threads(1)
        x, y = torch.randn(2, 600, 2)
        many = torch.randn(2, 40, 30, 2)
        expected = assign(x, y).permutation, assign(*many, batched=True).permutation
        if os.getuid() == 0:  # for whom there is no limit
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
        for threads in (2, 8, 10**6):
            assert torch.equal(assign(x, y, threads=threads).permutation, expected[0])
            found = assign(*many, batched=True, threads=threads)
            assert torch.equal(found.permutation, expected[1])
    """)
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
