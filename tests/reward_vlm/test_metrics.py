import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, precision_score, recall_score

from reward_vlm.metrics import auroc, episode_metrics, expected_calibration_error, frame_metrics


def test_frame_metrics_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(2000) < 0.2
    probabilities = np.clip(0.3 * labels + 0.8 * rng.random(2000), 0, 1).astype(np.float32)
    found = frame_metrics(labels, probabilities, 0.6)
    positive = probabilities >= 0.6
    tn, fp, _, _ = confusion_matrix(labels, positive).ravel()
    assert found["fpr"] == pytest.approx(fp / (fp + tn))
    assert found["recall"] == pytest.approx(recall_score(labels, positive))
    assert found["precision"] == pytest.approx(precision_score(labels, positive))
    assert found["base_rate"] == pytest.approx(labels.mean())


def test_auroc_counts_ordered_pairs_with_ties_half() -> None:
    labels = np.array([True, True, False, False])
    scores = np.array([0.9, 0.5, 0.5, 0.1], np.float32)
    assert auroc(labels, scores) == pytest.approx((1 + 1 + 0.5 + 1) / 4)
    assert np.isnan(auroc(np.ones(3, bool), np.ones(3, np.float32)))


def test_calibration_error_is_zero_when_calibrated_and_the_gap_when_not() -> None:
    labels = np.arange(1000) < 300
    assert expected_calibration_error(labels, np.full(1000, 0.3, np.float32)) == pytest.approx(0, abs=1e-6)
    assert expected_calibration_error(labels, np.full(1000, 0.8, np.float32)) == pytest.approx(0.5, abs=1e-6)
    assert expected_calibration_error(np.ones(3, bool), np.ones(3, np.float32)) == pytest.approx(0)


def test_rates_without_a_denominator_are_nan() -> None:
    found = frame_metrics(np.zeros(4, bool), np.zeros(4, np.float32), 0.5)
    assert np.isnan(found["recall"])
    assert np.isnan(found["precision"])
    assert found["fpr"] == 0


def test_episode_metrics_by_hand() -> None:
    truth = [
        np.array([0, 0, 1, 1, 1], bool),  # ended rightly at frame 3
        np.array([0, 0, 0, 1, 1], bool),  # ended falsely at frame 1, before the success
        np.array([0, 0, 0, 0, 0], bool),  # a single false frame: the debounce holds
        np.array([0, 0, 0, 0, 0], bool),  # two false frames in a row: falsely ended
        np.array([0, 1, 1, 1, 0], bool),  # never seen
        np.array([0, 1, 0, 0, 0], bool),  # too short for the debounce: neither seen nor missed
    ]
    judged = [
        np.array([0, 0, 1, 1, 1], np.float32),
        np.array([1, 1, 0, 1, 1], np.float32),
        np.array([0, 1, 0, 1, 0], np.float32),
        np.array([0, 1, 1, 0, 0], np.float32),
        np.array([0, 1, 0, 1, 0], np.float32),
        np.array([0, 1, 0, 0, 0], np.float32),
    ]
    found = episode_metrics(truth, judged, 0.5, k=2)
    assert found["episode_false_success"] == pytest.approx(2 / 6)
    assert found["failure_false_success"] == pytest.approx(1 / 2)
    assert found["episode_false_failure"] == pytest.approx(1 / 3)
    assert found["episode_recall"] == pytest.approx(1 / 3)
