"""A person who may take over for a while: keyboard, gamepad, a ROS topic, or a test's script.

N members, A action dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import gymnasium
import numpy as np
import numpy.typing as npt

from robot_rl.errors import ConfigError


class Teleoperator(Protocol):
    """Whoever may take over. Asked once a step."""

    def poll(self) -> npt.NDArray[np.float32] | None:
        """The action (A,) in [-1, 1] to execute now in the place of the policy's; None leaves it be."""


class Intervened(gymnasium.vector.VectorWrapper):
    """The person's action takes the place of the policy's for one member, and goes through the same guard.

    `info` of a step: `is_intervention` (N,) bool, and `action_requested` as what was asked for then, by
    whom it may be. Wrap the guarded environment in it, never the other way round.

    Args:
        env: N guarded members.
        person: asked at each step.
        member: the one that the person watches.
        watch: shown that member's observation and its instruction, before the person is asked.

    Raises:
        ConfigError: there is no such member.
    """

    def __init__(
        self,
        env: gymnasium.vector.VectorEnv,
        person: Teleoperator,
        member: int = 0,
        watch: Callable[[dict[str, npt.NDArray[Any]], str], None] | None = None,
    ) -> None:
        super().__init__(env)
        if not 0 <= member < env.num_envs:
            raise ConfigError(f"intervention in member {member}; expected 0 .. {env.num_envs - 1}")
        self.person, self.member, self._watch = person, member, watch

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As the environment's."""
        observations, info = self.env.reset(seed=seed, options=options)
        self._show(observations, info["instruction"])
        return observations, info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """As the environment's.

        Raises:
            ConfigError: the person's action has another shape.
        """
        wanted = self.person.poll()
        taken = np.zeros(self.env.num_envs, bool)
        if wanted is not None:
            actions = np.array(actions, np.float32)
            if np.shape(wanted) != actions.shape[1:]:
                raise ConfigError(
                    f"intervention with an action of shape {np.shape(wanted)}; expected {actions.shape[1:]}"
                )
            actions[self.member], taken[self.member] = wanted, True
        observations, reward, terminated, truncated, info = self.env.step(actions)
        self._show(observations, info["instruction"])
        return observations, reward, terminated, truncated, {**info, "is_intervention": taken}

    def _show(self, observations: dict[str, npt.NDArray[Any]], instructions: Sequence[str]) -> None:
        if self._watch is not None:
            self._watch(
                {key: value[self.member] for key, value in observations.items()}, instructions[self.member]
            )
