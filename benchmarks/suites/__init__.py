"""What is measured: a module for each suite, with ``rows(quick)``."""

SUITES = {
    "kernels": "the kernels alone, beside preallocated PyTorch and torch.compile",
    "loops": "microseconds per step of whole sampling loops around a network that costs nothing",
    "schedulers": "microseconds per step of the diffusers drop-in beside diffusers",
    "stages": "microseconds per stage of every solver at (256, 2)",
    "posterior": "samples given observations beside azula, and what a mask adds to a step",
    "guidance": "rules of guidance beside diffusers' guiders, and what they add to a step",
    "end_to_end": "whole loops with real networks of several sizes, and the solver's share",
    "drop_ins": "microseconds per evaluation of the drop-ins for k-diffusion, EDM, flow_matching",
    "sde": "stochastic solvers and Brownian motions beside torchsde",
    "quality": "quality against network evaluations with exact scores and trained networks",
    "tuned": "plans fitted to a problem beside the best built-in at the same and twice the cost",
    "ode": "error-controlled ODE steps, and a continuous normalizing flow",
    "training": "one training batch beside torchcfm",
    "trainer": "a trainer's steps beside a loop by hand on accelerate; memory of sets on a disk",
    "couplings": "exact optimal assignment beside the peers' solvers",
    "assignment": "exact assignment of every kind of costs, 4 to 4096 rows, beside the peers",
    "growth": "how exact assignment grows to 65,536 points: exponents and jumps",
    "sinkhorn": "entropic transport to a given marginal error, beside POT and geomloss",
    "two_dimensional": "the 2-D tables of the OT-CFM papers (hours; as a command of its own, "
    "python -m benchmarks.suites.two_dimensional, it has two processes and goes on where it "
    "stopped)",
    "training_drop_ins": "the drop-ins for torchcfm and torchdiffeq beside the originals",
    "memory": "peak memory of a sampling run",
    "parallel": "rounds of runs parallel in time, beside the parallel schedulers of diffusers",
    "steering": "the reward of steered digits beside the best of as many samples",
    "launches": "what a launch of each Triton kernel costs the host",
    "reversible": "gradients that retrace a run, beside checkpoints, and exact inversion",
    "generation": "sets of samples in folders beside a bare loop, and two processes beside one",
    "http": "samples over HTTP by 1, 8 and 64 clients beside the batch in one process",
    "startup": "time of `import fastgen`, and of plans",
}
