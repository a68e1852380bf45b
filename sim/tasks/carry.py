"""What all tasks share in which one thing is taken by its handle and put somewhere else."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from robot_rl.errors import ConfigError
from sim.arm import gripper_opening
from sim.kinematics import rpy_from_matrix
from sim.scene import Scene
from sim.spec import FloatArray
from sim.tasks.base import Task, action_towards, place_arm, settle

PAD_INSET = 0.014
"""Finger travel at which the pad's inner face would be in the middle [m]; see `wx250s.xml`."""

_ALIGNED = 0.010  # sideways error that the open fingers forgive [m]
_FUNNEL = 0.4  # more of it for each metre that is still to go down
_TURNED = 0.15  # the same for their turn [rad]
_ABOVE = 0.045  # from where the tool descends on a handle [m]
_SPEED = 0.7


@dataclass(frozen=True)
class Grip:
    """Where and how a body is held.

    Attributes:
        height: of the tool above the body's origin [m].
        width: of the handle between the pads, along the body's y axis [m].
        reach: of the handle along the body's x axis, from its origin [m].
        period: turn after which the handle fits the fingers again [rad].
    """

    height: float
    width: float
    reach: float = 0.0
    period: float = math.pi

    def __post_init__(self) -> None:
        if not 0.004 <= self.width <= 0.036:
            raise ConfigError(f"grip width={self.width}; the fingers take .004 .. .036 m")

    @property
    def opening(self) -> float:
        """The gripper's opening around the handle."""
        return gripper_opening(self.width / 2 + PAD_INSET)

    def turn(self, yaw: float) -> float:
        """The smallest turn of the tool [rad] that fits the handle of a body at `yaw` [rad]."""
        return (yaw + self.period / 2) % self.period - self.period / 2

    def tool(self, origin: FloatArray, yaw: float) -> FloatArray:
        """Where the tool (3,) [m] holds a body whose origin (3,) [m] and `yaw` [rad] are given."""
        return origin + np.array([self.reach * math.cos(yaw), self.reach * math.sin(yaw), self.height])


def is_held(scene: Scene, body: str, grip: Grip) -> bool:
    """Whether the fingers are closed on the handle."""
    away = grip.tool(scene.position(body), scene.yaw(body)) - scene.arm.pose.position
    near = math.hypot(away[0], away[1]) < 0.015 and abs(away[2]) < 0.02
    return bool(near and scene.arm.state()[6] < grip.opening + 0.08)


def carry(
    scene: Scene,
    body: str,
    grip: Grip,
    goal: FloatArray,
    travel: float,
    tolerance: float,
    release: bool = True,
) -> FloatArray:
    """The action (7,) of one who takes `body` and puts its origin at `goal` (3,) [m].

    Reactive: open above the handle, down, close; up until the origin is at `travel` [m], across, down,
    open. Whatever slips or is missed is taken anew.

    Args:
        tolerance: sideways error at which the body is put down [m].
        release: open the fingers at the goal; otherwise hold it there.
    """
    tool = scene.arm.pose.position
    origin, yaw = scene.position(body), scene.yaw(body)
    if not is_held(scene, body, grip):
        return _take(scene, grip.tool(origin, yaw), grip.turn(yaw))
    way = goal - origin
    if math.hypot(way[0], way[1]) < tolerance + _FUNNEL * max(-way[2], 0.0):
        opening = 1.0 if release and way[2] > -0.006 else 0.0
        return action_towards(scene, tool + way, opening, _SPEED)
    if origin[2] < travel - 0.02:
        return action_towards(scene, tool + np.array([0.0, 0.0, travel - origin[2]]), 0.0, _SPEED)
    return action_towards(scene, tool + np.array([way[0], way[1], travel - origin[2]]), 0.0, _SPEED)


def _take(scene: Scene, handle: FloatArray, turn: float) -> FloatArray:
    """Above the handle (3,) [m], then down around it, then close."""
    pose = scene.arm.pose
    tool, yaw = pose.position, float(rpy_from_matrix(pose.rotation)[2])
    above = handle[2] + _ABOVE
    forgiven = _ALIGNED + _FUNNEL * max(tool[2] - handle[2], 0.0)
    if math.dist(handle[:2], tool[:2]) < forgiven and abs(turn - yaw) < 2 * _TURNED:
        # Not lower either: there it may be wider, and fingers around that never count as closed.
        there = abs(tool[2] - handle[2]) < 0.008 and abs(turn - yaw) < _TURNED
        opening = 0.0 if there else 1.0
        return action_towards(scene, handle, opening, _SPEED, turn)
    if tool[2] < above - 0.02:  # rise first: the fingers must not sweep it away
        return action_towards(scene, np.array([tool[0], tool[1], above]), 1.0, _SPEED, yaw)
    return action_towards(scene, np.array([handle[0], handle[1], above]), 1.0, _SPEED, turn)


class CarryTask(Task):
    """Success: `body` has `arrived` and the gripper has let go of it."""

    body: ClassVar[str]
    grip: ClassVar[Grip]
    travel: ClassVar[float]
    """Height of the body's origin on the way [m]."""
    tolerance: ClassVar[float] = 0.01
    near_misses: ClassVar[tuple[str, ...]] = ("beside", "held", "grasped")
    reward_weights = {"success": 1.0, "body_to_goal": 0.5, "tool_to_body": 0.1}  # noqa: RUF012

    @abstractmethod
    def goal(self, scene: Scene) -> FloatArray:
        """Where the body's origin (3,) [m] is put."""

    @abstractmethod
    def arrived(self, scene: Scene) -> bool:
        """Whether the body rests where it belongs, held or not."""

    @abstractmethod
    def beside(self, scene: Scene, rng: np.random.Generator) -> FloatArray:
        """A place (3,) [m] where the body rests near its goal and has not arrived."""

    def success(self, scene: Scene) -> bool:
        return bool(self.arrived(scene) and scene.arm.state()[6] > 0.8)

    def reward_terms(self, scene: Scene) -> dict[str, float]:
        origin = scene.position(self.body)
        handle = self.grip.tool(origin, scene.yaw(self.body))
        return {
            "success": float(self.success(scene)),
            "body_to_goal": -math.dist(origin, self.goal(scene)),
            "tool_to_body": -math.dist(handle, scene.arm.pose.position),
        }

    def expert(self, scene: Scene) -> FloatArray:
        if self.success(scene):
            return np.array([0, 0, 0, 0, 0, 0, 1.0])
        return carry(scene, self.body, self.grip, self.goal(scene), self.travel, self.tolerance)

    def near_miss(self, scene: Scene, rng: np.random.Generator, kind: str) -> None:
        """It stands `beside` its goal, is `held` above it, or stands there still `grasped`."""
        if kind not in CarryTask.near_misses:
            super().near_miss(scene, rng, kind)
        if kind == "beside":
            leave(scene, self.body, self.grip, self.beside(scene, rng), rng)
            return
        lift = rng.uniform(0.025, 0.05) if kind == "held" else 0.001
        origin = self.goal(scene) + np.array([*rng.uniform(-0.004, 0.004, 2), lift])
        scene.place(self.body, origin)
        place_arm(scene, self.grip.tool(origin, 0.0), self.grip.opening + 0.04)
        settle(scene, gripper=0.0)


def leave(
    scene: Scene, body: str, grip: Grip, origin: FloatArray, rng: np.random.Generator, spread: float = 0.3
) -> None:
    """Put the body down at `origin` (3,) [m], turned at most `spread` [rad], the open gripper above it."""
    yaw = rng.uniform(-spread, spread)
    scene.place(body, origin, yaw)
    above = np.array([0.0, 0.0, rng.uniform(0.05, 0.08)])
    place_arm(scene, grip.tool(origin, yaw) + above, gripper=1.0)
    settle(scene)
