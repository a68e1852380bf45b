"""How good a judge is: frame by frame at the true base rate, and episode by episode after debouncing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from reward_vlm.debounce import first_firing

Labels = npt.NDArray[np.bool_]
Probabilities = npt.NDArray[np.float32]


def auroc(labels: Labels, probabilities: Probabilities) -> float:
    """P(a positive scores above a negative), ties half; NaN where a class is missing."""
    return float(roc_auc_score(labels, probabilities)) if 0 < labels.sum() < len(labels) else float("nan")


def expected_calibration_error(labels: Labels, probabilities: Probabilities, bins: int = 15) -> float:
    """ECE = sum_b n_b / n |mean label_b - mean probability_b| over equal-width bins (Guo et al. 2017, eq. 3).

    Over all frames as they come, so at the true base rate.
    """
    index = np.minimum((probabilities * bins).astype(np.int64), bins - 1)
    gap = np.bincount(index, labels.astype(np.float64) - probabilities.astype(np.float64), bins)
    return float(np.abs(gap).sum() / len(labels))


def frame_metrics(labels: Labels, probabilities: Probabilities, threshold: float) -> dict[str, float]:
    """AUROC, FPR, recall, precision, expected calibration error and base rate over frames (F,).

    A rate without a denominator is NaN.
    """
    positive = probabilities >= threshold
    return {
        "auroc": auroc(labels, probabilities),
        "fpr": _mean(positive[~labels]),
        "recall": _mean(positive[labels]),
        "precision": _mean(labels[positive]),
        "ece": expected_calibration_error(labels, probabilities),
        "base_rate": _mean(labels),
        "frames": float(len(labels)),
    }


def episode_metrics(
    labels: Sequence[Labels], probabilities: Sequence[Probabilities], threshold: float, k: int
) -> dict[str, float]:
    """What an agent would meet that is stopped by the debounced judge; per episode the T judged frames.

    - `episode_false_success`: share of all episodes that the judge ends at a frame which is no success.
    - `failure_false_success`: the same among the episodes that never truly succeed: the rate that
      grows as 1 - (1 - p)^T, and does not depend on how many of the episodes fail.
    - `episode_false_failure`: share of the episodes with k true frames in a row that are never ended.
    - `episode_recall`: share of those that are ended at a true success.
    """
    ended = [first_firing(p >= threshold, k) for p in probabilities]
    false = np.array([at is not None and not bool(y[at]) for at, y in zip(ended, labels, strict=True)], bool)
    never = np.array([at is None for at in ended], bool)
    failed = np.array([not y.any() for y in labels], bool)
    succeeded = np.array([first_firing(y, k) is not None for y in labels], bool)
    return {
        "episode_false_success": _mean(false),
        "failure_false_success": _mean(false[failed]),
        "episode_false_failure": _mean(never[succeeded]),
        "episode_recall": _mean((~never & ~false)[succeeded]),
        "episodes": float(len(labels)),
    }


def frame_order_correlation(labels: Sequence[Labels], probabilities: Sequence[Probabilities]) -> float:
    """Spearman's correlation of score and time, the mean over episodes that succeed (VOC of GVL, 2024).

    Over the frames up to the first success: after it nothing is left to progress. NaN without any.
    """
    found = []
    for y, p in zip(labels, probabilities, strict=True):
        upto = int(y.argmax()) + 1 if y.any() else 0
        if upto > 2 and np.ptp(p[:upto]) > 0:
            found.append(float(spearmanr(np.arange(upto), p[:upto]).statistic))
    return float(np.mean(found)) if found else float("nan")


def _mean(values: npt.NDArray[np.bool_]) -> float:
    return float(values.mean()) if len(values) else float("nan")
