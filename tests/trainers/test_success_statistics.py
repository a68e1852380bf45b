"""Wilson intervals against published values, and the paired bootstrap against what it must obey."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_rl.errors import ConfigError
from robot_rl.trainers.statistics import paired_difference, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe, "Two-sided confidence intervals for the single proportion" (1998), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_matches_newcombe(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n, z=1.959964) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 500), st.data())
def test_wilson_holds_the_rate_and_mirrors(n: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, n))
    low, high = wilson(successes, n)
    assert 0.0 <= low <= successes / n + 1e-12
    assert successes / n - 1e-12 <= high <= 1.0
    mirrored = wilson(n - successes, n)
    assert (low, high) == pytest.approx((1 - mirrored[1], 1 - mirrored[0]), abs=1e-12)


def test_wilson_covers_at_the_nominal_rate() -> None:
    """Of intervals over draws of a known rate about 95 % hold it."""
    draws = np.random.default_rng(0).binomial(200, 0.7, size=2000)
    held = [low <= 0.7 <= high for low, high in (wilson(int(wins), 200) for wins in draws)]
    assert 0.93 < np.mean(held) < 0.97


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_impossible_counts(successes: int, n: int) -> None:
    with pytest.raises(ConfigError, match=f"{successes} successes of {n}"):
        wilson(successes, n)


def test_paired_difference_uses_the_pairing() -> None:
    generator = np.random.default_rng(1)
    b = generator.integers(0, 2, 200)
    a = np.maximum(b, generator.uniform(size=200) < 0.1)  # better or equal on every seed
    mean, low, high = paired_difference(a, b)
    assert mean == pytest.approx(a.mean() - b.mean())
    assert 0 < low <= mean <= high
    shuffled = paired_difference(a, generator.permutation(b))
    assert shuffled[2] - shuffled[1] > 1.5 * (high - low)


def test_paired_difference_agrees_with_the_normal_approximation() -> None:
    generator = np.random.default_rng(2)
    a, b = generator.normal(0.3, 1, 400), generator.normal(0, 1, 400)
    mean, low, high = paired_difference(a, b)
    half = 1.96 * (a - b).std(ddof=1) / 20
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.1 * half)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=50))
def test_paired_difference_is_seeded_and_antisymmetric(pairs: list[tuple[bool, bool]]) -> None:
    a, b = [float(x) for x, _ in pairs], [float(y) for _, y in pairs]
    forward, backward = paired_difference(a, b, 500), paired_difference(b, a, 500)
    assert forward == paired_difference(a, b, 500)
    assert forward[0] == pytest.approx(-backward[0])
    assert (forward[1], forward[2]) == pytest.approx((-backward[2], -backward[1]))


def test_paired_difference_refuses_unpaired() -> None:
    with pytest.raises(ConfigError, match="cannot pair 2 with 3"):
        paired_difference([0.0, 1.0], [0.0, 1.0, 1.0])
