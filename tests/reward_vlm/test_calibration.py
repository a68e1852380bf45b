import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_vlm.calibration import Calibration, choose_threshold, fit_temperature
from reward_vlm.metrics import episode_metrics, expected_calibration_error
from robot_rl.errors import ConfigError


def test_fit_recovers_the_temperature_and_bias_that_made_the_labels() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 8, 40_000).astype(np.float32)
    labels = rng.random(40_000) < Calibration(4.0, -1.5).probability(logits)
    temperature, bias = fit_temperature(logits, labels)
    assert temperature == pytest.approx(4.0, rel=0.05)
    assert bias == pytest.approx(-1.5, abs=0.1)
    assert expected_calibration_error(labels, Calibration(temperature, bias).probability(logits)) < 0.01


def test_fit_stays_finite_where_the_classes_separate() -> None:
    logits = np.concatenate([np.full(50, -3.0), np.full(50, 3.0)]).astype(np.float32)
    temperature, bias = fit_temperature(logits, logits > 0)
    probability = Calibration(temperature, bias).probability(logits)
    assert temperature > 0
    assert 0 < probability.min() < 0.05
    assert 0.95 < probability.max() < 1


EPISODE = st.lists(st.tuples(st.booleans(), st.integers(0, 20)), min_size=1, max_size=8)


@settings(max_examples=100, deadline=None)
@given(st.lists(EPISODE, min_size=1, max_size=6), st.sampled_from([0.0, 0.1, 0.3]), st.integers(1, 3))
def test_threshold_is_the_smallest_that_keeps_both_rates(
    drawn: list[list[tuple[bool, int]]], fpr: float, k: int
) -> None:
    labels = [np.array([y for y, _ in episode], bool) for episode in drawn]
    probabilities = [np.array([p / 20 for _, p in episode], np.float32) for episode in drawn]
    y, p = np.concatenate(labels), np.concatenate(probabilities)

    def keeps(threshold: float) -> tuple[bool, bool]:
        false = (p >= threshold)[~y]
        rate = episode_metrics(labels, probabilities, threshold, k)["episode_false_success"]
        return not len(false) or false.mean() <= fpr, rate <= 0.2

    chosen = choose_threshold(labels, probabilities, fpr, 0.2, k)
    levels = [*(0.025 + 0.05 * np.arange(20)), 1.0 + 1e-6]  # between every two scores, and above all
    assert keeps(chosen)[0] or p[~y].max() == 1.0
    reachable = [level for level in levels[:-1] if all(keeps(level)) and level < p.max()]
    if reachable:
        assert all(keeps(chosen))
        below = [level for level in reachable if np.any((p >= level) & (p < chosen))]
        assert not below  # nothing lower, that decides any frame differently, would have done


def test_bad_calibrations_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="temperature is 0"):
        Calibration(temperature=0)
    with pytest.raises(ConfigError, match=r"threshold is 1\.5"):
        Calibration(threshold=1.5)
    with pytest.raises(ConfigError, match="debounce is 0"):
        Calibration(debounce=0)
