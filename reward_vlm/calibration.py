"""From logits to probabilities and from probabilities to a decision, both fitted on validation episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression

from reward_vlm.metrics import Labels, Probabilities
from robot_rl.errors import ConfigError


@dataclass(frozen=True)
class Calibration:
    """p = sigmoid(logit / temperature + bias), or a monotone curve; and what counts as a success.

    Training sees as many successes as failures; the bias brings p back to the true base rate.
    """

    temperature: float = 1.0
    bias: float = 0.0
    threshold: float = 0.5
    """A frame is positive at p >= threshold."""
    debounce: int = 2
    """Consecutive positive frames that the threshold was chosen for."""
    curve: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    """Logits and probabilities to interpolate between, in the place of the sigmoid (`fit_isotonic`)."""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Calibration:
        """From what `dataclasses.asdict` becomes in JSON."""
        curve = value.get("curve")
        return cls(**{**value, "curve": curve and (tuple(curve[0]), tuple(curve[1]))})

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ConfigError(f"calibration temperature is {self.temperature}; expected a positive number")
        if not 0 <= self.threshold <= 1:
            raise ConfigError(f"calibration threshold is {self.threshold}; expected a number in [0, 1]")
        if self.debounce < 1:
            raise ConfigError(f"calibration debounce is {self.debounce}; expected at least 1 frame")

    def probability(self, logits: npt.NDArray[np.float32]) -> Probabilities:
        """Calibrated probabilities of logits, elementwise; below 1, so a threshold of 1 is never met."""
        if self.curve is not None:
            probability = np.interp(logits, *self.curve).astype(np.float32)
        else:
            probability = expit(logits / self.temperature + self.bias).astype(np.float32)
        return np.minimum(probability, np.nextafter(np.float32(1), np.float32(0)))


def fit_temperature(logits: npt.NDArray[np.float32], labels: Labels) -> tuple[float, float]:
    """Temperature and bias that minimise the cross-entropy of p = sigmoid(logit / T + b) over frames (F,).

    Platt scaling with Platt's smoothed targets (1999, section 2.2): t+ = (N+ + 1) / (N+ + 2) and
    t- = 1 / (N- + 2), which keeps T above 0 where the classes separate.
    """
    positives = int(labels.sum())
    target = np.where(labels, (positives + 1) / (positives + 2), 1 / (len(labels) - positives + 2))
    x = logits.astype(np.float64)
    spread = float(x.std()) or 1.0

    def cross_entropy(parameters: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        z = np.exp(parameters[0]) * x / spread + parameters[1]
        residual = expit(z) - target
        loss = float(np.mean(np.logaddexp(0, z) - target * z))
        return loss, np.array([np.mean(residual * np.exp(parameters[0]) * x / spread), residual.mean()])

    log_slope, bias = minimize(
        cross_entropy, np.zeros(2), jac=True, method="L-BFGS-B", bounds=[(-5, 5), (-30, 30)]
    ).x
    return spread / float(np.exp(log_slope)), float(bias)


def fit_isotonic(
    logits: npt.NDArray[np.float32], labels: Labels
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The monotone curve nearest to the labels (pool adjacent violators; Zadrozny & Elkan 2002).

    Its ends are Platt's smoothed targets, for no finite sample shows a probability of 0 or 1.
    """
    positives = int(labels.sum())
    low, high = 1 / (len(labels) - positives + 2), (positives + 1) / (positives + 2)
    regression = IsotonicRegression(y_min=low, y_max=high).fit(logits, np.clip(labels, low, high))
    return tuple(regression.X_thresholds_.tolist()), tuple(regression.y_thresholds_.tolist())


def choose_threshold(
    labels: Sequence[Labels],
    probabilities: Sequence[Probabilities],
    frame_fpr: float,
    episode_false_success: float,
    k: int,
) -> float:
    """The smallest threshold that keeps both rates over the validation episodes, each of T judged frames.

    The frame FPR always holds. Where no threshold keeps the episode rate while any frame is still
    called positive, the one with the smallest episode rate is taken (the lowest of equals).
    """
    y, p = np.concatenate(labels), np.concatenate(probabilities).astype(np.float64)
    negatives = np.sort(p[~y])[::-1]
    allowed = int(frame_fpr * len(negatives))
    # Midpoints between neighbouring scores: the decision does not hang on the last digit of one frame.
    scores = np.unique(np.append(p, 0.0))
    candidates = (scores[:-1] + scores[1:]) / 2
    if allowed < len(negatives):
        candidates = candidates[candidates > negatives[allowed]]
    if len(candidates) == 0:
        return 1.0
    rates = _false_successes(labels, probabilities, candidates, k) / len(labels)
    reached = np.flatnonzero(rates <= episode_false_success)
    return float(candidates[reached[0] if len(reached) else rates.argmin()])


def _false_successes(
    labels: Sequence[Labels],
    probabilities: Sequence[Probabilities],
    thresholds: npt.NDArray[np.float64],
    k: int,
) -> npt.NDArray[np.int64]:
    """How many episodes the debounced judge ends at a frame that is no success, per threshold (C,).

    With s_t the smallest of the last k probabilities, the episode ends at the first t with s_t >= c.
    That is a frame where s exceeds all before it, and it is so for c in (max_{u<t} s_u, s_t]: one
    interval per such frame, so one pass over the episodes serves every threshold.
    """
    lows: list[npt.NDArray[np.float64]] = []
    highs: list[npt.NDArray[np.float64]] = []
    for y, p in zip(labels, probabilities, strict=True):
        if len(p) < k:
            continue
        s = np.lib.stride_tricks.sliding_window_view(p.astype(np.float64), k).min(-1)
        before = np.concatenate(([-np.inf], np.maximum.accumulate(s)[:-1]))
        ends_falsely = (s > before) & ~y[k - 1 :]
        lows.append(before[ends_falsely])
        highs.append(s[ends_falsely])
    if not lows:
        return np.zeros(len(thresholds), np.int64)
    low, high = np.sort(np.concatenate(lows)), np.sort(np.concatenate(highs))
    return np.searchsorted(low, thresholds) - np.searchsorted(high, thresholds)
