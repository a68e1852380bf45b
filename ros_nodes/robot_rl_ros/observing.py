"""Which joint state belongs to which picture: by stamp, never by arrival."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from robot_rl.safety import JointState

Picture = npt.NDArray[np.uint8]
SAME_S = 1e-6
"""Stamps this near are of one moment."""


class Observation(NamedTuple):
    """What was seen at one moment."""

    stamp: float
    """[s]"""
    joints: npt.NDArray[np.float64]
    """(J,) [rad or m]"""
    pictures: Mapping[str, Picture]
    """Camera -> (H, W, 3)."""


class Observer:
    """Keeps the newest joint states and pictures, and pairs them.

    Args:
        joints: J, how many positions a sound state has.
        cameras: the cameras of an observation; the first one's stamp is the observation's.
        shape: (H, W) that every picture must have; None takes any.
        max_age_s: an older picture or state is not seen [s].
        max_skew_s: largest distance in time between a picture and its joint state [s].
        keep, keep_pictures: how many states and pictures of a camera.
    """

    def __init__(
        self,
        joints: int,
        cameras: tuple[str, ...],
        shape: tuple[int, int] | None = None,
        max_age_s: float = 0.3,
        max_skew_s: float = 0.05,
        keep: int = 500,
        keep_pictures: int = 60,
    ) -> None:
        self.joints, self.cameras, self.shape = joints, cameras, shape
        self.max_age_s, self.max_skew_s = max_age_s, max_skew_s
        self._states: deque[JointState] = deque(maxlen=keep)
        self._pictures: dict[str, deque[tuple[float, Picture | None]]] = {
            camera: deque(maxlen=keep_pictures) for camera in cameras
        }

    def add_state(self, state: JointState) -> bool:
        """Take in a measured state; False if it is not J finite numbers."""
        if len(state.position) != self.joints or not np.isfinite(state.position).all():
            return False
        self._states.append(state)
        return True

    def add_picture(self, camera: str, stamp: float, picture: Picture | None) -> None:
        """Take in a picture; None: something came that is none."""
        self._pictures[camera].append((stamp, picture))

    def clear(self) -> None:
        """Forget everything."""
        self._states.clear()
        for pictures in self._pictures.values():
            pictures.clear()

    @property
    def state(self) -> JointState | None:
        """The newest state."""
        return self._states[-1] if self._states else None

    @property
    def seen(self) -> float:
        """When what there is to see was taken [s]; -inf if nothing is there."""
        if not self.cameras:
            return self._states[-1].stamp if self._states else -np.inf
        pictures = self._pictures[self.cameras[0]]
        return pictures[-1][0] if pictures else -np.inf

    def newest(self, now: float) -> Observation | str:
        """What is seen at `now` [s], or why nothing is."""
        if self.state is None:
            return "no joint state yet"
        if not (age := now - self.state.stamp) <= self.max_age_s:
            return f"the newest joint state is {age:.2f} s old"
        if not self.cameras:
            return self.at(self.state.stamp)
        if self.seen == -np.inf:
            return f"no picture of camera {self.cameras[0]} yet"
        if not (age := now - self.seen) <= self.max_age_s:
            return f"the newest picture is {age:.2f} s old"
        return self.at(self.seen)

    def at(self, stamp: float, max_skew_s: float | None = None) -> Observation | str:
        """What was seen at `stamp` [s]: the pictures and joint state nearest to it, or why there are none."""
        most = self.max_skew_s if max_skew_s is None else max_skew_s
        if not self._states:
            return "no joint state yet"
        state = min(reversed(self._states), key=lambda state: abs(state.stamp - stamp))
        if (skew := abs(state.stamp - stamp)) > most:
            return f"the nearest joint state is {skew:.2f} s from the picture"
        pictures = {}
        for camera in self.cameras:
            if not self._pictures[camera]:
                return f"no picture of camera {camera} yet"
            taken, picture = min(reversed(self._pictures[camera]), key=lambda item: abs(item[0] - stamp))
            if abs(taken - stamp) > most:
                return f"the nearest picture of camera {camera} is {abs(taken - stamp):.2f} s away"
            expected = "x".join(map(str, self.shape)) if self.shape else "sound"
            if picture is None:
                return f"what camera {camera} sends is no rgb8 or bgr8 picture; expected {expected} rgb8"
            if self.shape is not None and picture.shape[:2] != tuple(self.shape):
                found = "x".join(map(str, picture.shape[:2]))
                return f"the picture of camera {camera} is {found}; expected {expected}"
            pictures[camera] = picture
        return Observation(stamp, np.array(state.position), pictures)

    def exactly_at(self, stamp: float) -> Observation | None:
        """What was seen at that very moment, as in lock-step; None if it has not all come."""
        found = self.at(stamp, SAME_S)
        return None if isinstance(found, str) else found
