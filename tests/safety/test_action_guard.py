"""Whatever a policy returns, the environment gets finite actions in [-1, 1], and the record says why."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, VectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from robot_rl.data.schema import FILTER_REASONS
from robot_rl.errors import ConfigError
from robot_rl.safety import ActionGuard, ActionGuardConfig, GuardedVectorEnv

N, A = 3, 7
any_action = st.one_of(
    hnp.arrays(np.float32, (N, A), elements=st.floats(-1, 1, width=32)),
    hnp.arrays(np.float64, (N, A), elements=st.floats(allow_nan=True, allow_infinity=True)),
    hnp.arrays(np.float32, (N, A - 1), elements=st.floats(-1, 1, width=32)),
    st.sampled_from([None, "left", [[1.0], [2.0, 3.0]], 0.5, object()]),
)


def reasons(indices: np.ndarray) -> list[str]:
    return [FILTER_REASONS[index] for index in indices]


@settings(max_examples=200, deadline=None)
@given(st.lists(any_action, min_size=1, max_size=6), st.floats(0.1, 2.0))
def test_any_request_gives_a_finite_action_inside_its_limits(requests: list[Any], max_change: float) -> None:
    guard = ActionGuard(N, A, ActionGuardConfig(max_change))
    before = np.zeros((N, A), np.float32)
    for request in requests:
        executed, why = guard.step(request)
        assert executed.shape == (N, A)
        assert executed.dtype == np.float32
        assert np.isfinite(executed).all()
        assert (np.abs(executed) <= 1).all()
        moving = ~np.isin(reasons(why), ["non_finite", "wrong_shape"])
        assert (np.abs(executed - before)[moving, :-1] <= max_change + 1e-6).all()
        assert (executed[~moving, :-1] == 0).all()
        np.testing.assert_array_equal(executed[~moving, -1], before[~moving, -1])
        before = executed


@settings(deadline=None)
@given(
    hnp.arrays(np.float32, (5, N, A), elements=st.floats(-0.75, 0.75, width=32)),
    hnp.arrays(np.float32, (5, N), elements=st.floats(-1, 1, width=32)),
)
def test_ordinary_actions_pass_bit_for_bit(actions: np.ndarray, gripper: np.ndarray) -> None:
    actions[:, :, -1] = gripper
    guard = ActionGuard(N, A)
    for action in actions:
        executed, why = guard.step(action)
        np.testing.assert_array_equal(executed, action)
        assert not why.any()


def test_each_member_is_judged_on_its_own() -> None:
    guard = ActionGuard(4, A, ActionGuardConfig(max_change=0.5))
    action = np.full((4, A), 0.4, np.float32)
    action[1, 2] = np.nan
    action[2, 0] = 3.0
    action[3, 0] = -0.9
    executed, why = guard.step(action)
    assert reasons(why) == ["", "non_finite", "action_limit", "acceleration_limit"]
    assert executed[2, 0] == executed[3, 0] * -1 == 0.5
    guard.reset(np.array([True, False, False, True]))
    executed, _ = guard.step(np.ones((4, A)))
    np.testing.assert_allclose(executed[:, 0], [0.5, 0.5, 1.0, 0.5])


class Recorder(VectorEnv):
    """Remembers what it was asked to do."""

    def __init__(self, extra: dict[str, Any] | None = None) -> None:
        self.num_envs = N
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.single_action_space = gymnasium.spaces.Box(-1, 1, (A,))
        self.single_observation_space = gymnasium.spaces.Box(-1, 1, (1,))
        self.extra = extra or {}
        self.seen: list[np.ndarray] = []

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return np.zeros((N, 1)), {"seed": seed}

    def step(self, actions: np.ndarray) -> Any:
        self.seen.append(actions)
        no = np.zeros(N, bool)
        return np.zeros((N, 1)), np.zeros(N), no, no, {"success": no} | self.extra

    def expert_actions(self) -> str:
        return "the expert's"


def test_the_environment_records_requested_and_executed_apart() -> None:
    recorder = Recorder()
    env = GuardedVectorEnv(recorder)
    env.reset(seed=[1, 2, 3])
    action = np.zeros((N, A), np.float32)
    action[1] = np.nan
    action[2] = 7.0
    info = env.step(action)[-1]
    np.testing.assert_array_equal(info["action"], recorder.seen[-1])
    assert reasons(info["filter_reason"]) == ["", "non_finite", "action_limit"]
    assert info["cost"].tolist() == [0, 1, 1]
    assert info["action_requested"][2, 0] == 7.0
    assert np.isfinite(info["action_requested"]).all()
    assert "success" in info
    info = env.step("nonsense")[-1]
    assert set(reasons(info["filter_reason"])) == {"wrong_shape"}
    assert env.expert_actions() == "the expert's"


def test_what_the_environment_executed_and_why_is_kept() -> None:
    """The simulator's own filter may have cut the action further."""
    really = np.full((N, A), 0.1, np.float32)
    leash = FILTER_REASONS.index("leash")
    env = GuardedVectorEnv(
        Recorder(
            {"action": really, "filter_reason": np.array([leash, 0, leash]), "cost": np.array([0, 2.5, 0])}
        )
    )
    env.reset()
    action = np.full((N, A), 0.2, np.float32)
    action[2] = 2.0
    info = env.step(action)[-1]
    np.testing.assert_array_equal(info["action"], really)
    np.testing.assert_array_equal(info["action_requested"], action)
    assert reasons(info["filter_reason"]) == ["leash", "", "action_limit"]
    assert info["cost"].tolist() == [1, 2.5, 1]


def test_a_masked_reset_forgets_only_those_members() -> None:
    env = GuardedVectorEnv(Recorder(), ActionGuardConfig(max_change=0.5))
    env.reset()
    ones = np.ones((N, A), np.float32)
    env.step(ones)
    env.reset(options={"reset_mask": np.array([True, False, False])})
    np.testing.assert_allclose(env.step(ones)[-1]["action"][:, 0], [0.5, 1.0, 1.0])


def test_bad_configs_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_change is 3"):
        ActionGuardConfig(max_change=3)
    with pytest.raises(ConfigError, match="indices of 4 dimensions"):
        ActionGuard(1, 4, ActionGuardConfig(absolute=(6,)))
