"""The state machine of reset-free practice, for any run of successes and time-outs."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robot_rl.errors import ConfigError
from robot_rl.trainers.forward_backward import ON_TIMEOUT, ForwardBackward, ResetFreeConfig

CONFIGS = st.builds(
    ResetFreeConfig,
    on_timeout=st.sampled_from(ON_TIMEOUT),
    stuck_after=st.integers(1, 5),
    hard_reset_every=st.sampled_from([0, 7, 40]),
)
TRIALS = st.lists(st.tuples(st.booleans(), st.integers(1, 20)), max_size=60)


def play(machine: ForwardBackward, trials: list[tuple[bool, int]]) -> list[tuple[int, str]]:
    """(direction, start) before each trial and after the last."""
    seen = [(machine.direction, machine.start)]
    for success, steps in trials:
        machine.ended(success, steps)
        seen.append((machine.direction, machine.start))
    return seen


@given(CONFIGS, TRIALS)
def test_every_count_is_that_of_the_trials(config: ResetFreeConfig, trials: list[tuple[bool, int]]) -> None:
    machine = ForwardBackward(config)
    seen = play(machine, trials)
    for way in (0, 1):
        own = [
            success for (direction, _), (success, _) in zip(seen, trials, strict=False) if direction == way
        ]
        assert (machine.trials[way], machine.successes[way]) == (len(own), sum(own))
    assert machine.steps == sum(steps for _, steps in trials)
    starts = [start for _, start in seen]
    assert machine.manual_resets == starts.count("manual")
    assert machine.hard_resets == starts.count("hard")
    assert starts.count("first") == 1 == (starts[0] == "first")


@given(CONFIGS, TRIALS)
def test_the_direction_follows_success_time_out_and_reset(
    config: ResetFreeConfig, trials: list[tuple[bool, int]]
) -> None:
    machine = ForwardBackward(config)
    for success, steps in trials:
        before = machine.direction
        machine.ended(success, steps)
        if machine.fresh:
            assert machine.direction == 0
        elif success or config.on_timeout == "switch":
            assert machine.direction == 1 - before
        else:
            assert machine.direction == before


@given(CONFIGS, TRIALS)
def test_a_person_is_asked_after_time_outs_in_a_row_and_never_after_a_success(
    config: ResetFreeConfig, trials: list[tuple[bool, int]]
) -> None:
    machine = ForwardBackward(config)
    row = 0
    for success, steps in trials:
        row = 0 if success else row + 1
        machine.ended(success, steps)
        assert (machine.start == "manual") == (row >= config.stuck_after)
        if machine.fresh:
            row = 0


@given(CONFIGS, TRIALS)
def test_a_scene_lasts_no_longer_than_the_hard_reset_allows(
    config: ResetFreeConfig, trials: list[tuple[bool, int]]
) -> None:
    machine, age = ForwardBackward(config), 0
    for success, steps in trials:
        machine.ended(success, steps)
        age += steps
        due = 0 < config.hard_reset_every <= age
        assert (machine.start == "hard") == (due and machine.start != "manual")
        if machine.fresh:
            age = 0


@given(CONFIGS, TRIALS, TRIALS)
def test_a_resumed_machine_goes_on_like_an_uninterrupted_one(
    config: ResetFreeConfig, before: list[tuple[bool, int]], after: list[tuple[bool, int]]
) -> None:
    whole, resumed = ForwardBackward(config), ForwardBackward(config)
    play(whole, before)
    resumed.load_state_dict(json.loads(json.dumps(whole.state_dict())))
    assert play(resumed, after) == play(whole, after)
    assert resumed.state_dict() == whole.state_dict()


def test_always_successful_practice_alternates_and_needs_nobody() -> None:
    machine = ForwardBackward(ResetFreeConfig(stuck_after=1))
    assert [way for way, _ in play(machine, [(True, 5)] * 4)] == [0, 1, 0, 1, 0]
    assert machine.manual_resets == 0
    assert machine.successes == [2, 2]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"on_timeout": "swap"}, "switch"),
        ({"stuck_after": 0}, "stuck_after=0"),
        ({"hard_reset_every": -1}, "hard_reset_every=-1"),
    ],
)
def test_a_bad_setting_is_named(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ResetFreeConfig(**fields)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="after 0 steps"):
        ForwardBackward().ended(True, 0)
