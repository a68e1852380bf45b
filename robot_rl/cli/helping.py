"""A person at keyboard or gamepad who watches one arm practise, and takes over while keys are held."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from robot_rl.cli.context import Context
from robot_rl.cli.play import HELP, PICTURE, Operator, Screen, Window
from robot_rl.data import schema
from robot_rl.safety import GuardedVectorEnv
from robot_rl.trainers.intervention import Intervened

RELEASE_AFTER = 3
"""Steps without a key after which the policy has the arm again; until then it waits where it is."""
GRIPPING = 0.6
"""A WidowX gripper that is less open than this is taken over closed."""


class AtTheKeys:
    """A `robot_rl.trainers.intervention.Teleoperator` in a window of `robot-rl play`.

    Args:
        screen: where the arm's picture goes and the keys come from.
        task: whose actions. size: A, of them.
    """

    def __init__(self, screen: Screen, task: str, size: int) -> None:
        self._screen, self._operator = screen, Operator(task, size)
        self._widowx = task.startswith("widowx/")
        self._idle = RELEASE_AFTER

    def watch(self, observation: Mapping[str, npt.NDArray[Any]], instruction: str) -> None:
        """Show what the arm's camera sees."""
        if self._idle >= RELEASE_AFTER:
            self._operator.reset(self._widowx and bool(observation[schema.STATE][6] < GRIPPING))
        picture = observation[schema.IMAGE]
        times = max(1, PICTURE // len(picture))
        state = "yours" if self._idle < RELEASE_AFTER else "practising: press a key to take over"
        self._screen.show(picture.repeat(times, 0).repeat(times, 1), (f"{instruction}    [{state}]", HELP[0]))

    def poll(self) -> npt.NDArray[np.float32] | None:
        """The action (A,) that the keys ask for, or None where nobody has pressed one for a while.

        Whoever quits stops the training as Ctrl-C does: at the end of the round, and saved.
        """
        wish = self._screen.wish()
        if wish.command == "quit":
            signal.raise_signal(signal.SIGINT)
            return None
        pressed = wish.toggle or bool(wish.motion.any())
        self._idle = 0 if pressed else self._idle + 1
        return self._operator.action(wish) if self._idle < RELEASE_AFTER else None


def helped_out(context: Context, env: GuardedVectorEnv) -> Intervened:
    """The first arm of `env` in a window, where a person at keyboard or gamepad may take over."""
    spec = context.simulation.spec
    size = int(np.prod(env.single_action_space.shape or ()))
    keys = AtTheKeys(Window(spec.name, 1.0 / spec.control_hz), spec.name, size)
    return Intervened(env, keys, watch=keys.watch)
