"""Random episodes of every WidowX task, which must stay physical: `make check-tasks`.

At every step: finite positions, velocities, commands and constraint forces, no acceleration that MuJoCo gave
up on, joints within their limits, motors within their efforts, an observation inside its declared space, a
finite reward. At rest after the episode: no two things more than `PENETRATION_M` inside one another.

`python -m benchmarks.check_tasks [TASK ...] --json FILE` goes on where FILE stands.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from rich.progress import track

import sim
from benchmarks.harness import machine, versions, write_json
from robot_rl.data import schema
from sim.tasks import TASKS
from sim.widowx import WidowXEnv

EPISODES, CHUNK = 1000, 50
STEPS = 20
PENETRATION_M = 0.005
JOINT_SLACK_RAD = 0.02
"""MuJoCo's joint limits are springs; a servo at full effort leans into one by less than this."""
REST_S = 1.5


@dataclass
class Outcome:
    """What random episodes of a task showed.

    Attributes:
        chunks: first episode of each chunk that is done. episodes: how many that are.
        faults: what was unphysical, and when, in words.
        deepest_mm, between: the deepest contact at rest, and of what.
    """

    chunks: list[int] = field(default_factory=list)
    episodes: int = 0
    faults: list[str] = field(default_factory=list)
    deepest_mm: float = 0.0
    between: str = ""

    def __add__(self, other: Outcome) -> Outcome:
        deeper = max(self, other, key=lambda outcome: outcome.deepest_mm)
        return Outcome(
            sorted([*self.chunks, *other.chunks]),
            self.episodes + other.episodes,
            self.faults + other.faults,
            deeper.deepest_mm,
            deeper.between,
        )


def unphysical(env: WidowXEnv) -> list[str]:
    """What is wrong with the present state, in words."""
    from mujoco import mjtWarning  # not before `sim` has chosen the OpenGL backend

    model, data, arm = env.scene.model, env.scene.data, env.scene.arm
    faults = []
    for quantity in ("qpos", "qvel", "ctrl", "qfrc_constraint"):
        if not np.isfinite(getattr(data, quantity)).all():
            faults.append(f"{quantity} holds a non-finite number")
    if data.warning[mjtWarning.mjWARN_BADQACC].number:
        faults.append("MuJoCo met a bad acceleration and reset itself")
    joints, kinematics = arm.measured[:6], arm.kinematics
    beyond = np.maximum(kinematics.lower - joints, joints - kinematics.upper).max()
    if beyond > JOINT_SLACK_RAD:
        faults.append(f"a joint is {beyond:.3f} rad beyond its limit")
    low, high = model.actuator_forcerange.T
    force, limited = data.actuator_force, model.actuator_forcelimited.astype(bool)
    if (limited & ((force < low - 1e-9) | (force > high + 1e-9))).any():
        faults.append("an actuator exceeds its effort")
    return faults


def penetration(env: WidowXEnv) -> tuple[float, str]:
    """Depth [m] of the deepest contact, and between what."""
    model, contact = env.scene.model, env.scene.data.contact
    if not len(contact.dist):
        return 0.0, ""
    deepest = int(np.argmin(contact.dist))
    geoms = [int(g) for g in contact.geom[deepest]]
    names = [model.geom(g).name or model.body(model.geom_bodyid[g]).name if g >= 0 else "flex" for g in geoms]
    return -float(contact.dist[deepest]), " and ".join(names)


def random_episodes(name: str, episodes: Iterable[int]) -> Outcome:
    """The random `episodes`, by number, of the task `name`."""
    env = sim.make(f"widowx/{name}", cameras=(), max_steps=STEPS).unwrapped
    assert isinstance(env, WidowXEnv)
    outcome = Outcome()
    for episode in episodes:
        rng = np.random.default_rng([episode, 3])
        env.reset(seed=schema.SEED_VALIDATION + episode)
        direction, ended, faults = rng.uniform(-1, 1, env.action_space.shape), False, []
        while not ended:
            if rng.random() < 0.3:  # keeps a direction for a while, so as to get somewhere
                direction = rng.uniform(-1, 1, env.action_space.shape)
            observation, reward, terminated, truncated, _ = env.step(direction.astype(np.float32))
            ended = terminated or truncated
            faults += [f"{fault} at {env.scene.data.time:.1f} s" for fault in unphysical(env)]
            if not env.observation_space[schema.STATE].contains(observation[schema.STATE]):
                faults.append(f"state {observation[schema.STATE].tolist()} outside the declared space")
            if not np.isfinite(reward):
                faults.append(f"reward {reward}")
        # At rest: the arm lets go, moves up where it may, and holds still. (What a servo at full effort
        # presses onto the table does sink in: a candy of a few grams by 8 mm.)
        up = np.zeros(env.action_space.shape, np.float32)
        up[2], up[6:7] = 1.0, 1.0
        for _ in range(4):
            env.step(up)
        env.scene.arm.drive(env.scene.arm.setpoint, round(REST_S / schema.PHYSICS_STEP_S))
        depth, between = penetration(env)
        if depth > PENETRATION_M:
            faults.append(f"{1e3 * depth:.1f} mm between {between} at rest")
        faults = [f"episode {episode}: {fault}" for fault in faults]
        outcome += Outcome([], 1, faults, 1e3 * max(depth, 0.0), between)
    env.close()
    return outcome


def chunk(name: str, first: int, episodes: int) -> Outcome:
    """The chunk of episodes from `first` on, of `episodes` in all."""
    return Outcome([first]) + random_episodes(name, range(first, min(first + CHUNK, episodes)))


def check(names: list[str], episodes: int, processes: int, file: Path) -> dict[str, Outcome]:
    """Run what `file` does not hold yet, cloth last, and write it after each chunk."""
    done: dict[str, Outcome] = {}
    if file.exists():
        done = {name: Outcome(**outcome) for name, outcome in json.loads(file.read_text())["tasks"].items()}
    host = machine()
    pending = [
        (name, first, episodes)
        for name in sorted(names, key=lambda name: ("cloth" in name, list(TASKS).index(name)))
        for first in range(0, episodes, CHUNK)
        if first not in done.get(name, Outcome()).chunks
    ]
    for name, outcome in track(_outcomes(pending, processes), "random episodes", total=len(pending)):
        done[name] = done.get(name, Outcome()) + outcome
        write(file, done, host)
    return done


def _outcomes(pending: list[tuple[str, int, int]], processes: int) -> Iterator[tuple[str, Outcome]]:
    """(task, outcome) of each chunk as it is done; in this process if `processes` is 0."""
    if processes == 0:
        for job in pending:
            yield job[0], chunk(*job)
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(chunk, *job): job[0] for job in pending}
        for future in as_completed(futures):
            yield futures[future], future.result()


def write(file: Path, done: dict[str, Outcome], host: dict[str, object]) -> None:
    """The outcomes so far as JSON, with machine, versions and command."""
    result = {
        "benchmark": "check_tasks",
        "machine": host,
        "versions": versions(("mujoco", "gymnasium", "numpy")),
        "command": shlex.join(["python", "-m", "benchmarks.check_tasks", *sys.argv[1:]]),
        "tasks": {name: dataclasses.asdict(done[name]) for name in TASKS if name in done},
    }
    write_json(file, result)


def main() -> int:
    """The command line; 1 if anything was unphysical."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.check_tasks")
    parser.add_argument("tasks", nargs="*", metavar="TASK", help="short names; all of them by default")
    parser.add_argument("--episodes", type=int, default=EPISODES)
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="0: in this one")
    parser.add_argument("--json", type=Path, metavar="FILE", required=True, help="written after each chunk")
    options = parser.parse_args()
    unknown = [name for name in options.tasks if name not in TASKS]
    if unknown:
        parser.error(f"unknown tasks {', '.join(unknown)}; choose from {', '.join(TASKS)}")
    done = check(options.tasks or list(TASKS), options.episodes, options.processes, options.json)
    faults = [f"widowx/{name}, {fault}" for name, outcome in done.items() for fault in outcome.faults]
    sys.stdout.write("".join(f"{fault}\n" for fault in faults))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
