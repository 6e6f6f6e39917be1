"""Curves and reports that the tests of the verdict share."""

import numpy as np

import instep
from instep import StepReport

N = 400


def noisy(curve, spread=0.05, seed=0):
    return curve + spread * np.random.default_rng(seed).standard_normal(len(curve))


def settled(n=N):
    return 0.2 + np.exp(-np.arange(n) / (n / 20))


def falling(n=N):
    return 2.0 - np.arange(n) / n


def annealed(n=N):
    """At a good rate with noise: what is left falls because the rate does."""
    rates = instep.schedules.CosineAnnealing(0.1, n)(np.arange(n))
    return 0.1 + np.exp(-np.arange(n) / (n / 40)) + 2 * rates, rates


def reports(n=N, **changes):
    """Of a run without incident, but for `changes`: name -> (step, value)."""
    made = [StepReport(k + 1, 0.1, True, 1.0, 0) for k in range(n)]
    for name, (step, value) in changes.items():
        made[step] = made[step]._replace(**{name: value})
    return made
