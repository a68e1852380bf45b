"""`robot-rl play`: a person drives a simulated task in a window, and what is done is recorded."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

import sim
from robot_rl.cli.config import build, resolve
from robot_rl.cli.sections import SafetyConfig
from robot_rl.cli.simulation import Simulation, env_options
from robot_rl.cli.verbs import whole_number
from robot_rl.data import schema
from robot_rl.data.episode import EpisodeMetadata
from robot_rl.data.recorder import EpisodeRecorder
from robot_rl.data.store import EpisodeStore
from robot_rl.errors import MissingExtraError, RobotRLError
from robot_rl.safety import ActionGuard

PICTURE = 448
HELP = (
    "W S away, towards you    A D left, right    R F up, down    J L turn    I K pitch    U O roll",
    "SPACE gripper    SHIFT faster    ENTER keep episode    BACKSPACE throw away    ESC quit",
)
PACE, FAST = 0.5, 1.0
"""Share of the largest action that a held key asks for."""


class NoDisplayError(RobotRLError):
    """There is nowhere to open a window."""


@dataclass(frozen=True)
class Wish:
    """What the person at the keys wants in this step.

    Attributes:
        motion: dx, dy, dz, droll, dpitch, dyaw (6,), in [-1, 1].
        toggle: whether the gripper is to open or close.
        command: `keep`, `discard`, `quit` or "".
    """

    motion: npt.NDArray[np.float32]
    toggle: bool = False
    command: str = ""


class Screen(Protocol):
    """Where the picture goes and the wishes come from."""

    def show(self, picture: npt.NDArray[np.uint8], lines: tuple[str, ...]) -> None: ...
    def wish(self) -> Wish:
        """Waits until the step's time is over."""
        ...


class Operator:
    """Wishes to actions of a task: WidowX (7,) or more, Meta-World (4,), robosuite (7,)."""

    def __init__(self, task: str, size: int) -> None:
        # Where 1 opens the gripper of a WidowX, it closes that of a foreign arm.
        self._open, self._closed = (1.0, 0.0) if task.startswith("widowx/") else (-1.0, 1.0)
        self._size, self._grips = size, False

    def reset(self, grips: bool = False) -> None:
        """An episode begins with an open gripper; somebody who takes over leaves it as it is."""
        self._grips = grips

    def action(self, wish: Wish) -> npt.NDArray[np.float32]:
        """The action (A,); what no key moves is 0."""
        self._grips ^= wish.toggle
        action = np.zeros(self._size, np.float32)
        axes = min(6, self._size - 1)
        action[:axes] = wish.motion[:axes]
        action[axes] = self._closed if self._grips else self._open
        return action


def drive(env: Any, screen: Screen, recorder: EpisodeRecorder | None, guard: ActionGuard, seed: int) -> int:
    """Episodes from `seed` on until the person quits; returns how many were kept.

    An episode that ends by itself is kept; one that is thrown away, left unfinished or never touched is not.
    """
    spec = env.unwrapped.task_spec
    operator, kept = Operator(spec.name, env.action_space.shape[0]), 0
    while True:
        observation, info = env.reset(seed=seed)
        guard.reset()
        operator.reset()
        if recorder is not None:
            metadata = (spec.name, info["instruction"], spec.robot, spec.control_hz, seed, "operator")
            recorder.start(observation, EpisodeMetadata(*metadata))
        steps, success, command, ended, touched = 0, bool(info["success"]), "", False, False
        while not (command or ended):
            state = "success" if success else f"step {steps}"
            tally = f"kept {kept}" if recorder is not None else "not recorded (out= records)"
            lines = (f"{info['instruction']}    [{state}, {tally}]", *HELP)
            screen.show(env.unwrapped.render(size=PICTURE), lines)
            wish = screen.wish()
            command = wish.command
            if command:
                break
            touched = touched or wish.toggle or bool(wish.motion.any())
            requested = operator.action(wish)
            executed, reasons = guard.step(requested[None])
            observation, reward, terminated, truncated, info = env.step(executed[0])
            steps, success, ended = steps + 1, bool(info["success"]), terminated or truncated
            if recorder is not None:
                recorder.step(
                    observation,
                    requested=requested,
                    executed=info["action"],
                    reward=reward,
                    cost=max(info["cost"], float(reasons[0] > 0)),
                    terminated=terminated,
                    truncated=truncated,
                    success=success,
                    filter_reason=int(reasons[0]) or int(info["filter_reason"]),
                )
        if recorder is not None:
            if touched and (ended or command == "keep"):
                recorder.commit()
                kept += 1
            else:
                recorder.discard()
        if command == "quit":
            return kept
        seed += 1


def play(arguments: dict[str, str], overrides: list[str]) -> int:
    """Open the window, drive, say what was recorded."""
    config = resolve(overrides)
    simulation = Simulation(config)
    seed = whole_number(arguments, "seed", schema.SEED_DEMOS, least=0)
    steps = whole_number(arguments, "steps", 200)
    safety = build(SafetyConfig, config.safety, "safety")
    screen = Window(simulation.task, 1.0 / simulation.spec.control_hz)
    options = {**env_options(config), "max_steps": steps, "hold_steps": config.collect.hold_steps}
    env = sim.make(simulation.task, **options)
    try:
        if (command_filter := simulation.command_filter()) is not None:
            env.unwrapped.set_command_filter(command_filter())  # type: ignore[attr-defined]
        recorder = None
        if "out" in arguments:
            recorder = EpisodeRecorder(EpisodeStore(arguments["out"], create=True))
        size = int(np.prod(env.action_space.shape or ()))
        kept = drive(env, screen, recorder, ActionGuard(1, size, safety.action), seed)
    finally:
        env.close()
        screen.close()
    where = f"added to {Path(arguments['out'])}" if "out" in arguments else "recorded: give out=STORE"
    print(f"{kept} episodes {where}")
    return 0


class Window:
    """A window of pygame's, with keyboard and the first gamepad.

    Args:
        title: of the window. period_s: of a step [s].

    Raises:
        NoDisplayError: no display, or none that a window opens on. MissingExtraError: no pygame.
    """

    def __init__(self, title: str, period_s: float) -> None:
        self._pygame = game = _pygame()
        try:
            game.display.init()
            if not os.environ.get("SDL_VIDEODRIVER") and game.display.get_driver() in ("dummy", "offscreen"):
                raise game.error("the display named by DISPLAY does not answer")
            self._surface = game.display.set_mode((PICTURE * 3 // 2, PICTURE + 84))
        except game.error as error:
            raise NoDisplayError(f"no window opens on this display ({error}): {_NO_DISPLAY}") from error
        game.font.init()
        game.joystick.init()
        game.display.set_caption(title)
        self._font = game.font.Font(None, 20)
        self._clock, self._rate = game.time.Clock(), 1.0 / period_s
        self._pad = game.joystick.Joystick(0) if game.joystick.get_count() else None

    def show(self, picture: npt.NDArray[np.uint8], lines: tuple[str, ...]) -> None:
        """Draw the picture (H, W, 3) and the lines under it."""
        game, surface = self._pygame, self._surface
        surface.fill((24, 26, 30))
        image = game.surfarray.make_surface(picture.swapaxes(0, 1))
        surface.blit(image, ((surface.get_width() - picture.shape[1]) // 2, 0))
        for row, line in enumerate(lines):
            text = self._font.render(line, True, (230, 230, 230))
            surface.blit(text, (10, picture.shape[0] + 8 + 24 * row))
        game.display.flip()

    def wish(self) -> Wish:
        """What was pressed since the last step, and what is held now."""
        game = self._pygame
        self._clock.tick(self._rate)
        presses = {
            game.K_SPACE: "toggle",
            game.K_RETURN: "keep",
            game.K_BACKSPACE: "discard",
            game.K_ESCAPE: "quit",
        }
        buttons = {0: "toggle", 7: "keep", 6: "discard"}  # A, start, back of the usual layout
        pressed = []
        for event in game.event.get():
            if event.type == game.QUIT:
                pressed.append("quit")
            elif event.type == game.KEYDOWN:
                pressed.append(presses.get(event.key, ""))
            elif event.type == game.JOYBUTTONDOWN:
                pressed.append(buttons.get(event.button, ""))
        command = next((name for name in ("quit", "discard", "keep") if name in pressed), "")
        return Wish(self._motion(), pressed.count("toggle") % 2 == 1, command)

    def _motion(self) -> npt.NDArray[np.float32]:
        """dx, dy, dz, droll, dpitch, dyaw (6,) of the held keys and the sticks."""
        game = self._pygame
        held = game.key.get_pressed()
        pairs = (
            (game.K_s, game.K_w),  # the cameras face the arm: away from the viewer is back
            (game.K_d, game.K_a),
            (game.K_r, game.K_f),
            (game.K_o, game.K_u),
            (game.K_k, game.K_i),
            (game.K_j, game.K_l),
        )
        pace = FAST if game.key.get_mods() & game.KMOD_SHIFT else PACE
        motion = pace * np.array([float(held[more]) - float(held[less]) for more, less in pairs])
        if self._pad is not None and self._pad.get_numaxes() >= 4:
            left_x, left_y, right_x, right_y = (self._pad.get_axis(i) for i in (0, 1, 2, 3))
            sticks = np.array([left_y, left_x, -right_y, 0.0, 0.0, -right_x])
            motion += np.where(np.abs(sticks) > 0.15, sticks, 0.0)
        return np.clip(motion, -1.0, 1.0).astype(np.float32)

    def close(self) -> None:
        """Close the window."""
        self._pygame.quit()


_NO_DISPLAY = "play needs a screen, such as a desktop session or ssh -X; `robot-rl collect` needs none"


def _pygame() -> ModuleType:
    """pygame, once there is something to show it on."""
    named = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"))
    if sys.platform == "linux" and not named:
        raise NoDisplayError(f"no display (DISPLAY and WAYLAND_DISPLAY are empty): {_NO_DISPLAY}")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    # A window drawn by OpenGL would meet the off-screen OpenGL of the cameras in one process, and crash.
    os.environ["SDL_FRAMEBUFFER_ACCELERATION"] = "0"
    try:
        import pygame
    except ImportError as error:
        raise MissingExtraError("pygame", "play") from error
    return pygame
