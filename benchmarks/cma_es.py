"""CMA-ES, for the attacks that are searched for."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def search(
    objective: Callable[[Floats], float], dimensions: int, generations: int, seed: int, spread: float = 1.0
) -> Floats:
    """Maximise by CMA-ES (Hansen, "The CMA Evolution Strategy: A Tutorial", arXiv 1604.00772, fig. 6).

    Returns the best point (dimensions,) seen.
    """
    rng = np.random.default_rng(seed)
    n, population = dimensions, 4 + int(3 * math.log(dimensions))
    parents = population // 2
    weights = math.log((population + 1) / 2) - np.log(np.arange(1, parents + 1))
    weights /= weights.sum()
    mass = 1 / float(weights @ weights)
    c_sigma = (mass + 2) / (n + mass + 5)
    d_sigma = 1 + 2 * max(0.0, math.sqrt((mass - 1) / (n + 1)) - 1) + c_sigma
    c_path = (4 + mass / n) / (n + 4 + 2 * mass / n)
    c_one = 2 / ((n + 1.3) ** 2 + mass)
    c_mu = min(1 - c_one, 2 * (mass - 2 + 1 / mass) / ((n + 2) ** 2 + mass))
    expected = math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n * n))
    mean, sigma, covariance = np.zeros(n), spread, np.eye(n)
    path, path_sigma = np.zeros(n), np.zeros(n)
    best, best_value = mean, objective(mean)
    for generation in range(1, generations + 1):
        values, axes = np.linalg.eigh(covariance)
        root = axes * np.sqrt(np.maximum(values, 1e-14))
        moves = rng.standard_normal((population, n)) @ root.T
        scores = [objective(mean + sigma * move) for move in moves]
        order = np.argsort(scores)[::-1]
        if scores[order[0]] > best_value:
            best, best_value = mean + sigma * moves[order[0]], scores[order[0]]
        chosen = moves[order[:parents]]
        step = weights @ chosen
        mean = mean + sigma * step
        whitened = axes @ ((axes.T @ step) / np.sqrt(np.maximum(values, 1e-14)))
        path_sigma = (1 - c_sigma) * path_sigma + math.sqrt(c_sigma * (2 - c_sigma) * mass) * whitened
        length = float(np.linalg.norm(path_sigma))
        slow = length / math.sqrt(1 - (1 - c_sigma) ** (2 * generation)) < (1.4 + 2 / (n + 1)) * expected
        path = (1 - c_path) * path + slow * math.sqrt(c_path * (2 - c_path) * mass) * step
        covariance = (
            (1 - c_one - c_mu) * covariance
            + c_one * (np.outer(path, path) + (not slow) * c_path * (2 - c_path) * covariance)
            + c_mu * (chosen.T * weights) @ chosen
        )
        sigma *= math.exp(c_sigma / d_sigma * (length / expected - 1))
    return best
