"""Reset-free practice: two tasks that undo each other take turns in one scene.

One update is one trial of every arm, so that all of them are between two trials whenever the state is saved,
and the scenes are part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import gymnasium
import numpy as np
import numpy.typing as npt

from robot_rl.data import schema
from robot_rl.data.episode import Episode
from robot_rl.errors import ConfigError
from robot_rl.trainers.forward_backward import DIRECTIONS, ForwardBackward, ResetFreeConfig
from robot_rl.trainers.homing import go_home
from robot_rl.trainers.online import OnlineLearner


class KeptScenes(Protocol):
    """N arms whose scenes can be held, saved and brought back: guarded `sim.ParallelVectorEnv`s are."""

    def hold(self, mask: npt.NDArray[np.bool_]) -> None:
        """The members of `mask` (N,) do not move until their next reset."""

    def scenes(self) -> list[dict[str, Any]]:
        """Each member's arm and objects as they are: numbers, strings, lists."""

    def restore(self, scenes: Sequence[dict[str, Any]]) -> None:
        """Bring back what `scenes` gave; a reset with `keep_scene` then goes on from there."""


class ResetFreeEnv(gymnasium.vector.VectorWrapper):
    """A `reset` begins the next trial where the last one ended: other instruction, same scene.

    `terminated` is the judge's word, `truncated` the clock's; a member that ended stays as it is until its
    next trial. `info` of reset holds `task`, a list of N.

    Args:
        env: N judged members that understand the reset options `keep_scene` and `task`.
        guarded: the same members without judge and person, in which the arms return home.
        arms: the members behind the wrappers.
        tasks: names of the forward and of the backward task.
        config: of the state machines, one a member.
    """

    def __init__(
        self,
        env: gymnasium.vector.VectorEnv,
        guarded: gymnasium.vector.VectorEnv,
        arms: KeptScenes,
        tasks: tuple[str, str],
        config: ResetFreeConfig | None = None,
    ) -> None:
        super().__init__(env)
        self.guarded, self.arms, self.tasks = guarded, arms, tasks
        self.config = config or ResetFreeConfig()
        self.machines = [ForwardBackward(self.config) for _ in range(env.num_envs)]
        self.already_done = np.zeros(2, np.int64)
        """Trials of each direction that began with their instruction fulfilled, by the truth."""
        self.homing_steps = 0
        """Taken between the trials, by all arms together."""
        self._home = np.zeros((env.num_envs, *self._state_shape()), np.float32)
        self._running = np.zeros(env.num_envs, bool)
        self._steps = np.zeros(env.num_envs, np.int64)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin the next trial of the members of `options["reset_mask"]` (N,), or of all.

        Raises:
            ConfigError: another option, for how a trial begins is not the caller's choice; or another
                member's trial is under way, which the arms' way home would disturb.
        """
        others = sorted((options or {}).keys() - {"reset_mask"})
        if others:
            raise ConfigError(f"reset option {others[0]!r} in reset-free practice; expected reset_mask alone")
        mask = np.asarray((options or {}).get("reset_mask", np.ones(self.num_envs)), bool)
        if (self._running & ~mask).any():
            raise ConfigError(
                f"reset of members {np.flatnonzero(mask).tolist()} while others practise; "
                "expected a reset between the trials of all"
            )
        direction = np.array([machine.direction for machine in self.machines])
        fresh = np.array([machine.fresh for machine in self.machines])
        homing = mask & ~fresh
        if homing.any() and self.config.homing_steps:
            self.homing_steps += go_home(self.guarded, self._home, homing, seed, self.config.homing_steps)
        for kept in (False, True):
            for way, task in enumerate(self.tasks):
                group = mask & (direction == way) & (fresh != kept)
                if group.any():
                    begin = {"reset_mask": group, "task": task} | ({"keep_scene": True} if kept else {})
                    observations, info = self.env.reset(seed=seed, options=begin)
        self._home[mask & fresh] = np.asarray(observations[schema.STATE])[mask & fresh]
        np.add.at(self.already_done, direction[mask], np.asarray(info["success"])[mask])
        self._running |= mask
        self._steps[mask] = 0
        return observations, {**info, "task": [self.tasks[way] for way in direction]}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """As the environment's; a trial that ends moves its member's state machine on."""
        observations, reward, terminated, truncated, info = self.env.step(actions)
        self._steps += self._running
        for i in np.flatnonzero(self._running & (terminated | truncated)).tolist():
            self.machines[i].ended(bool(terminated[i]), int(self._steps[i]))
            self._running[i] = False
        self.arms.hold(~self._running)
        return observations, reward, terminated, truncated, info

    def counts(self) -> dict[str, float]:
        """Totals over all members: steps, trials, predicted successes and resets."""
        machines = self.machines
        steps = sum(machine.steps for machine in machines)
        manual = sum(machine.manual_resets for machine in machines)
        found = {
            "manual_resets": manual,
            "hard_resets": sum(machine.hard_resets for machine in machines),
            "manual_resets_per_1000_steps": 1000 * manual / max(steps, 1),
            "homing_steps": self.homing_steps,
        }
        for way, name in enumerate(DIRECTIONS):
            found[f"{name}_trials"] = sum(machine.trials[way] for machine in machines)
            found[f"{name}_predicted"] = sum(machine.successes[way] for machine in machines)
            found[f"{name}_already_done"] = int(self.already_done[way])
        return {name: float(value) for name, value in found.items()}

    def state_dict(self) -> dict[str, Any]:
        """The state machines and the scenes, between two trials of every member.

        Raises:
            ConfigError: a trial is under way.
        """
        if self._running.any():
            raise ConfigError(f"{self._running.sum()} trials are under way; expected to save between trials")
        started = self.machines[0].start != "first"
        return {
            "machines": [machine.state_dict() for machine in self.machines],
            "already_done": self.already_done.tolist(),
            "homing_steps": self.homing_steps,
            "home": self._home.tolist(),
            "scenes": self.arms.scenes() if started else [],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if len(state["machines"]) != self.num_envs:
            raise ConfigError(
                f"{self.num_envs} arms go on with the practice of {len(state['machines'])}; "
                "expected as many: keep episodes_per_update"
            )
        for machine, saved in zip(self.machines, state["machines"], strict=True):
            machine.load_state_dict(saved)
        self.already_done = np.array(state["already_done"], np.int64)
        self.homing_steps, self._home = state["homing_steps"], np.array(state["home"], np.float32)
        if state["scenes"]:
            self.arms.restore(state["scenes"])

    def _state_shape(self) -> tuple[int, ...]:
        space = self.env.single_observation_space
        assert isinstance(space, gymnasium.spaces.Dict)
        return space[schema.STATE].shape or ()


class ResetFreeLearner(OnlineLearner):
    """`OnlineLearner` whose environment is a `ResetFreeEnv`: a round is one trial of every arm."""

    env: ResetFreeEnv

    def __init__(self, env: ResetFreeEnv, *arguments: Any, **options: Any) -> None:
        super().__init__(env, *arguments, **options)
        self.total_updates = -(-self.config.episodes // env.num_envs)
        self._true, self._intervened = [0, 0], 0

    def _batch(self) -> int:
        return self.env.num_envs

    def _measure(self, episodes: list[Episode]) -> dict[str, float]:
        for episode in episodes:
            self._true[self.env.tasks.index(episode.metadata.task)] += episode.succeeded
            self._intervened += int(episode.is_intervention.sum())
        return super()._measure(episodes) | self.counts()

    def counts(self) -> dict[str, float]:
        """Totals so far: `ResetFreeEnv.counts`, true successes of each direction, steps of a person's."""
        true = {f"{name}_true": float(self._true[way]) for way, name in enumerate(DIRECTIONS)}
        return self.env.counts() | true | {"intervention_steps": float(self._intervened)}

    def state_dict(self) -> dict[str, Any]:
        own = {"true": list(self._true), "intervened": self._intervened}
        return super().state_dict() | {"env": self.env.state_dict(), "reset_free": own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.env.load_state_dict(state["env"])
        self._true, self._intervened = list(state["reset_free"]["true"]), state["reset_free"]["intervened"]
