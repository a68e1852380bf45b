"""Reset-free practice of the simulated drawer: scenes that are kept, resumed, and helped in."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

import sim
from reward_vlm import Oracle, RewardWrapper
from robot_rl.agents.policy import ActorPolicy, PolicyConfig
from robot_rl.agents.sac import SACConfig
from robot_rl.agents.wsrl import WSRL, WSRLConfig
from robot_rl.data import schema
from robot_rl.data.episode import Episode
from robot_rl.data.language import embed
from robot_rl.data.replay import ReplayBuffer, ReplayConfig
from robot_rl.errors import ConfigError
from robot_rl.safety import GuardedVectorEnv
from robot_rl.trainers.actors import Post, Rest, RolloutActor, Ticket, published
from robot_rl.trainers.forward_backward import ResetFreeConfig
from robot_rl.trainers.instructed import Instructed
from robot_rl.trainers.intervention import Intervened, Teleoperator
from robot_rl.trainers.online import OnlineConfig
from robot_rl.trainers.reset_free import ResetFreeEnv, ResetFreeLearner
from robot_rl.trainers.rollout import EpisodeOrigin, rollout
from sim import ExpertPolicy
from sim.tasks import TASKS as TASKS_BY_NAME

TASKS = ("widowx/drawer_open", "widowx/drawer_close")
ORIGIN = EpisodeOrigin(TASKS[0], "widowx_250s", 5.0, "test")
LANGUAGE = 8


def arms(members: int, steps: int = 40, **options: Any) -> sim.ParallelVectorEnv:
    return sim.ParallelVectorEnv(
        TASKS[0], members, workers=0, cameras=(), max_steps=steps, hold_steps=10_000, **options
    )


def practice(
    inner: sim.ParallelVectorEnv, person: Teleoperator | None = None, config: ResetFreeConfig | None = None
) -> ResetFreeEnv:
    guarded: Any = GuardedVectorEnv(Instructed(inner, LANGUAGE))
    helped = Intervened(guarded, person) if person is not None else guarded
    return ResetFreeEnv(RewardWrapper(helped, Oracle()), guarded, inner, TASKS, config)


@pytest.fixture
def two() -> Iterator[sim.ParallelVectorEnv]:
    env = arms(2)
    yield env
    env.close()


def openings(env: sim.ParallelVectorEnv) -> list[float]:
    assert env._local is not None
    return [float(each.unwrapped.scene.data.joint("drawer").qpos[0]) for each in env._local._envs.values()]


def test_an_expert_opens_and_closes_in_turn_without_a_reset(two: sim.ParallelVectorEnv) -> None:
    env = practice(two, config=ResetFreeConfig(homing_steps=0))
    found: list[Episode] = []
    for first in range(0, 8, 2):
        found += rollout(env, ExpertPolicy(two), range(first, first + 2), ORIGIN)
    assert [episode.metadata.task for episode in found] == [task for task in TASKS * 2 for _ in range(2)]
    for episode in found:
        assert episode.terminated[-1]
        assert not episode.truncated.any()
        told = embed(episode.metadata.instruction, LANGUAGE)
        assert (episode.observations[schema.LANGUAGE] == told).all()
    for member in (0, 1):  # each trial begins where the one before ended
        for before, after in zip(found[member::2], found[member + 2 :: 2], strict=False):
            last, first_seen = before.observations[schema.STATE][-1], after.observations[schema.STATE][0]
            np.testing.assert_array_equal(last, first_seen)
    counts = env.counts()
    assert counts["forward_predicted"] == counts["backward_predicted"] == 4
    assert counts["manual_resets"] == counts["forward_already_done"] == counts["homing_steps"] == 0


def test_the_arm_returns_home_between_trials_and_leaves_the_drawer_alone(two: sim.ParallelVectorEnv) -> None:
    env = practice(two, config=ResetFreeConfig(homing_steps=25))
    first = rollout(env, ExpertPolicy(two), [0, 1], ORIGIN)
    before = openings(two)
    observations, info = env.reset(seed=[2, 3])
    assert info["task"] == [TASKS[1]] * 2
    for member, episode in enumerate(first):
        home, now = episode.observations[schema.STATE][0], observations[schema.STATE][member]
        assert np.linalg.norm(home[:3] - now[:3]) < 0.012
        assert np.abs(home[3:] - now[3:]).max() < 0.08
    assert openings(two) == pytest.approx(before, abs=0.01)  # it still rolls a little
    assert 0 < env.counts()["homing_steps"] <= 50
    with pytest.raises(ConfigError, match="while others practise"):
        env.reset(seed=[4, 5], options={"reset_mask": np.array([True, False])})


@pytest.mark.parametrize("forward", ["pot_lid_on", "weight_to_bin"])
def test_experts_of_other_pairs_take_turns_from_home(forward: str) -> None:
    inner = sim.ParallelVectorEnv(f"widowx/{forward}", 2, workers=0, cameras=(), hold_steps=10_000)
    guarded = GuardedVectorEnv(inner)
    tasks = (f"widowx/{forward}", TASKS_BY_NAME[forward].pair)
    env = ResetFreeEnv(RewardWrapper(guarded, Oracle()), guarded, inner, tasks)
    for first in range(0, 6, 2):
        rollout(env, ExpertPolicy(inner), [first, first + 1], ORIGIN)
    inner.close()
    counts = env.counts()
    assert (counts["forward_predicted"], counts["backward_predicted"]) == (4, 2)
    assert counts["forward_already_done"] == counts["backward_already_done"] == 0


class Still:
    """Does nothing."""

    def reset(self, mask: Any, seeds: Any) -> None:
        pass

    def act(self, observations: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        return np.zeros((len(observations[schema.STATE]), 7), np.float32)


def test_a_time_out_is_truncated_and_three_in_a_row_call_a_person() -> None:
    inner = arms(1, steps=3)
    env = practice(inner, config=ResetFreeConfig("retry", stuck_after=3))
    try:
        for round in range(4):
            (episode,) = rollout(env, Still(), [round], ORIGIN)
            assert episode.truncated[-1]
            assert not episode.terminated.any()
            assert episode.metadata.task == TASKS[0]
            assert env.machines[0].start == ("manual" if round == 2 else "kept")
    finally:
        inner.close()
    assert env.counts()["manual_resets_per_1000_steps"] == pytest.approx(1000 / 12)


def test_an_arm_stands_still_while_the_others_finish(two: sim.ParallelVectorEnv) -> None:
    env = practice(two)
    env.reset(seed=[0, 1])
    expert = ExpertPolicy(two)
    after: list[float] = []
    for _ in range(40):
        actions = expert.act({})
        actions[1] = 0.0
        env.step(actions)
        if not env._running[0]:
            after.append(openings(two)[0])
    assert len(after) > 2
    assert len(set(after)) == 1


def agent(seed: int = 0, offline_ratio: float = 0.0, offline: ReplayBuffer | None = None) -> WSRL:
    policy = ActorPolicy(
        PolicyConfig(
            7, 7, None, language_dim=LANGUAGE, hidden=(16,), instruction="open the drawer", seed=seed
        )
    )
    sac = SACConfig(critics=2, seed=seed)
    return WSRL(policy, WSRLConfig(sac, ReplayConfig(500), 8, 2, offline_ratio, seed=seed), offline)


def learner(inner: sim.ParallelVectorEnv, **options: Any) -> ResetFreeLearner:
    env = practice(inner, config=ResetFreeConfig(stuck_after=2), **options)
    return ResetFreeLearner(env, agent(), ORIGIN, OnlineConfig(10, 2, 2, 0.5), 100)


def saved(state: Any) -> Any:
    """What the run directory gives back."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def flat(state: Any) -> list[Any]:
    if isinstance(state, dict):
        return [part for key in sorted(state, key=str) for part in flat(state[key])]
    if isinstance(state, (list, tuple)):
        return [part for each in state for part in flat(each)]
    return [state.tolist() if isinstance(state, torch.Tensor) else state]


@pytest.mark.parametrize("mode", ["joint_position", "joint_velocity", "cartesian_impedance"])
def test_a_resumed_practice_ends_like_an_uninterrupted_one(mode: str) -> None:
    """Buffer, machines, scenes and weights are equal to the bit."""
    makers = [arms(2, steps=8, control_mode=mode) for _ in range(3)]
    whole, first, second = (learner(env) for env in makers)
    for _ in range(5):
        whole.update()
    for _ in range(3):
        first.update()
    assert {machine.start for machine in first.env.machines} == {"kept"}
    second.load_state_dict(saved(first.state_dict()))
    for _ in range(2):
        second.update()
    a, b = whole.state_dict(), second.state_dict()
    assert a["env"]["scenes"] == b["env"]["scenes"]
    assert a["env"]["machines"] == b["env"]["machines"]
    assert flat(a) == flat(b)
    assert whole.counts()["manual_resets"] > 0
    for env in makers:
        env.close()


def test_an_actor_in_anothers_place_goes_on_in_its_scenes() -> None:
    """And makes up with all arms for one trial alone, of which it hands over no more than that."""
    makers = [arms(2, steps=6) for _ in range(2)]
    network = agent().policy
    posts = [Post(practice(inner), Still(), network, ORIGIN) for inner in makers]
    first = RolloutActor(0, lambda: posts[0])
    done = list(first.practise(Ticket(range(2), 0, 50), published(network)))
    assert sorted(each.number or 0 for each in done) == [0, 1]
    assert done[0].rest is None
    rest = done[1].rest
    assert rest is not None
    second = RolloutActor(0, lambda: posts[1], Rest(**json.loads(json.dumps(dataclasses.asdict(rest)))))
    ours, theirs = (
        list(actor.practise(Ticket(range(5, 6), 1, 50), published(network))) for actor in (first, second)
    )
    for a, b in zip(ours, theirs, strict=True):
        assert (a.number, a.rest) == (b.number, b.rest)
        np.testing.assert_array_equal(
            a.episode.observations[schema.STATE], b.episode.observations[schema.STATE]
        )
    assert [each.number for each in ours] in ([5, None], [None, 5])
    assert ours[1].rest is not None
    assert ours[1].rest.counts["forward_trials"] == 4
    for inner in makers:
        inner.close()


class Script:
    """A person who takes over in some steps."""

    def __init__(self, *taken: int) -> None:
        self.taken, self.step = taken, -1

    def poll(self) -> npt.NDArray[np.float32] | None:
        self.step += 1
        return np.full(7, 0.25, np.float32) if self.step in self.taken else None


def test_a_persons_steps_are_marked_and_go_to_both_buffers() -> None:
    inner = arms(1, steps=6)
    env = practice(inner, Script(2, 3, 5))
    offline = ReplayBuffer(ReplayConfig(500))
    learning = agent(offline_ratio=0.5, offline=offline)
    (demonstration,) = rollout(env, Still(), [0], ORIGIN)
    learning.add_episode(demonstration)
    assert demonstration.is_intervention.tolist() == [False, False, True, True, False, True]
    assert np.allclose(demonstration.action_requested[2], 0.25)
    assert len(learning.buffer) == 6
    assert len(offline) == 3
    taken = learning.buffer.gather(torch.tensor([2, 3, 5]))
    for name, value in offline.all().items():
        assert torch.equal(value, taken[name]), name
    resumed = agent(offline_ratio=0.5, offline=ReplayBuffer(ReplayConfig(500)))
    resumed.load_state_dict(saved(learning.state_dict()))
    assert resumed.offline is not None
    assert len(resumed.offline) == 3
    inner.close()


def test_the_learner_counts_a_persons_steps() -> None:
    inner = arms(1, steps=6)
    learning = learner(inner, person=Script(0, 1, 9))
    learning.update()
    learning.update()
    assert learning.counts()["intervention_steps"] == 3
    inner.close()


@pytest.mark.parametrize(
    ("action", "member", "message"), [(np.zeros(3, np.float32), 0, r"shape \(3,\)"), (None, 5, "member 5")]
)
def test_a_bad_intervention_is_refused(
    two: sim.ParallelVectorEnv, action: Any, member: int, message: str
) -> None:
    class Person:
        def poll(self) -> Any:
            return action

    with pytest.raises(ConfigError, match=message):
        Intervened(GuardedVectorEnv(two), Person(), member).step(np.zeros((2, 7), np.float32))


def test_a_reset_takes_no_options_and_a_state_only_between_trials(two: sim.ParallelVectorEnv) -> None:
    env = practice(two)
    with pytest.raises(ConfigError, match="near_miss"):
        env.reset(seed=[0, 1], options={"near_miss": "halfway"})
    env.reset(seed=[0, 1])
    with pytest.raises(ConfigError, match="2 trials are under way"):
        env.state_dict()
    with pytest.raises(ConfigError, match="2 arms go on with the practice of 1"):
        env.load_state_dict({"machines": [{}], "already_done": [0, 0], "scenes": []})


def test_a_scene_that_cannot_be_made_again_is_not_saved(two: sim.ParallelVectorEnv) -> None:
    two.reset()
    with pytest.raises(ConfigError, match="without a seed"):
        two.scenes()
    maze = sim.ParallelVectorEnv("widowx/maze", 1, workers=0, cameras=())
    maze.reset(seed=0)
    with pytest.raises(ConfigError, match="springs"):
        maze.scenes()
    maze.close()


def test_scenes_come_back_in_worker_processes(tmp_path: Path) -> None:
    inner = sim.ParallelVectorEnv(TASKS[0], 2, workers=2, cameras=(), hold_steps=10_000)
    other = arms(2)
    try:
        inner.reset(seed=[3, 4])
        for _ in range(12):
            inner.step(inner.expert_actions())
        scenes = inner.scenes()
        other.restore(scenes)
        kept = {"keep_scene": True, "task": TASKS[1]}
        ours, theirs = (env.reset(seed=[5, 6], options=kept) for env in (inner, other))
        np.testing.assert_array_equal(ours[0][schema.STATE], theirs[0][schema.STATE])
        assert ours[1]["instruction"] == theirs[1]["instruction"] == ["close the drawer"] * 2
        for _ in range(6):
            a, b = (env.step(env.expert_actions())[0][schema.STATE] for env in (inner, other))
            np.testing.assert_array_equal(a, b)
        with pytest.raises(ConfigError, match="1 scenes for 2"):
            other.restore(scenes[:1])
    finally:
        inner.close()
        other.close()
