"""Models whose flows are known, and small studies of them, for fits."""

import torch

import fastgen
from fastgen import schedules
from fastgen.fitting.study import Settings, Study
from tests.support.mixtures import Mixture

VP = schedules.CosineVP()
DATA_STD = 0.6


def gaussian(schedule=VP):
    """The exact model of N(0, 0.6^2) in any dimension: its flow is x_t ~ std(t)."""

    def denoise(x, t):
        alpha, sigma = (f(t)[:, None] for f in (schedule.alpha, schedule.sigma))
        return alpha * DATA_STD**2 / ((alpha * DATA_STD) ** 2 + sigma**2) * x

    return fastgen.Model(denoise, schedule, "data", time_dtype=torch.float64)


def mixture(schedule=VP, predicts="data"):
    return fastgen.Model(Mixture(schedule, predicts), schedule, predicts, time_dtype=torch.float64)


def study_of(model, shape=(2,), batch=32, **changed):
    given = {"guidance": None, "net_kwargs": None, "dtype": torch.float64, "teacher": "unipc"}
    given |= {"teacher_steps": 24, "rtol": 1e-4, "seed": 9} | changed
    return Study(model, Settings(shape, batch, **given))


SMALL = {"samples": 64, "held_out": 32, "batch": 32, "dtype": torch.float64}
