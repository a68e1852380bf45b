import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reward_vlm.debounce import Debounce, first_firing
from robot_rl.errors import ConfigError

FRAMES = st.lists(st.booleans(), max_size=30).map(lambda values: np.array(values, bool))


@settings(deadline=None)
@given(FRAMES, st.integers(1, 5))
def test_fires_exactly_after_k_positives_in_a_row(positive: np.ndarray, k: int) -> None:
    debounce = Debounce(k, 1)
    fired = [bool(debounce.update(positive[t : t + 1])[0]) for t in range(len(positive))]
    assert fired == [t + 1 >= k and positive[t + 1 - k : t + 1].all() for t in range(len(positive))]


@settings(deadline=None)
@given(FRAMES, st.integers(1, 5))
def test_first_firing_is_the_first_frame_a_debounce_fires_at(positive: np.ndarray, k: int) -> None:
    debounce = Debounce(k, 1)
    fired = [bool(debounce.update(positive[t : t + 1])[0]) for t in range(len(positive))]
    assert first_firing(positive, k) == (fired.index(True) if any(fired) else None)


def test_masked_reset_forgets_only_the_members_asked_for() -> None:
    debounce = Debounce(3, 3)
    for _ in range(2):
        debounce.update(np.ones(3, bool))
    debounce.reset(np.array([False, True, False]))
    assert debounce.update(np.ones(3, bool)).tolist() == [True, False, True]
    debounce.reset()
    assert not debounce.update(np.ones(3, bool)).any()


def test_k_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="debounce k is 0; expected at least 1"):
        Debounce(0, 1)
