"""Worker processes that step some members of a vector environment, with arrays in shared memory."""

from __future__ import annotations

import ctypes
import multiprocessing as mp
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from robot_rl.errors import ConfigError
from sim import registry
from sim.spec import CommandFilter, Observation

# Workers share two cores with a learner: one thread each in NumPy; Mesa draws in the calling thread.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_ONE_THREAD["LP_NUM_THREADS"] = "0"
# One byte goes ahead of everything. For a step it is all: pickling, unpickling and two more reads would
# take a tenth of the time of a step.
_STEP, _CALL, _DONE, _ANSWER = b"s", b"c", b"d", b"a"
Layout = dict[str, tuple[tuple[int, ...], np.dtype]]
"""Name -> (shape, dtype) of everything that parent and workers share."""


class WorkerDied(Exception):
    """A worker process is gone. Never leaves `sim`: the vector environment starts another."""


@dataclass(frozen=True)
class Recipe:
    """Everything a worker needs to build its members."""

    task: str
    options: Mapping[str, Any]
    command_filter_factory: Callable[[], CommandFilter | None] | None

    def make(self) -> Any:
        """One member.

        Raises:
            ConfigError: unknown task or option, or a filter for a task that takes none.
        """
        env = registry.make(self.task, **self.options)
        if self.command_filter_factory is not None:
            if not hasattr(env.unwrapped, "set_command_filter"):
                raise ConfigError(f"task {self.task!r} takes no command filter; only widowx tasks do")
            env.unwrapped.set_command_filter(self.command_filter_factory())  # type: ignore[attr-defined]
        return env


class Members:
    """Steps some members in this process, reading actions from and writing results to `arrays`."""

    def __init__(self, recipe: Recipe, arrays: Mapping[str, npt.NDArray[Any]], members: range) -> None:
        self._arrays, self._members = arrays, members
        self._envs = {index: recipe.make() for index in members}

    def reset(self, seeds: Mapping[int, int | None], options: dict[str, Any]) -> dict[int, str]:
        """Reset the members of `seeds` that are ours with `options`; returns their instructions."""
        instructions = {}
        for index in self._members:
            if index in seeds:
                observation, info = self._envs[index].reset(seed=seeds[index], options=options)
                for name in ("reward", "cost", "filter_reason", "terminated", "truncated", "action"):
                    self._arrays[name][index] = 0
                self._arrays["success"][index] = info["success"]
                self._write(index, observation)
                instructions[index] = info["instruction"]
        return instructions

    def step(self) -> None:
        """Step every member that has not ended; the others keep what they last returned."""
        arrays = self._arrays
        for index in self._members:
            if arrays["terminated"][index] or arrays["truncated"][index]:
                arrays["reward"][index] = 0.0
                continue
            observation, reward, terminated, truncated, info = self._envs[index].step(
                arrays["request"][index]
            )
            arrays["reward"][index] = reward
            arrays["terminated"][index], arrays["truncated"][index] = terminated, truncated
            for name in ("success", "action", "cost", "filter_reason"):
                arrays[name][index] = info[name]
            self._write(index, observation)

    def expert(self) -> None:
        """Write the scripted expert's actions into the requests."""
        for index in self._members:
            self._arrays["request"][index] = self._envs[index].unwrapped.expert_action()

    def scenes(self) -> dict[int, dict[str, Any]]:
        """What `restore` needs, by member.

        Raises:
            ConfigError: an adapter's environment, whose scene cannot be kept.
        """
        return {index: _keeper(env).scene_state() for index, env in self._envs.items()}

    def restore(self, scenes: Mapping[int, dict[str, Any]]) -> None:
        """Bring back the scenes of our members."""
        for index, env in self._envs.items():
            _keeper(env).restore_scene(scenes[index])

    def stand_in(self) -> None:
        """Any valid state for the members of a worker that died; their arrays are left alone."""
        for env in self._envs.values():
            env.reset(seed=0)

    def close(self) -> None:
        for env in self._envs.values():
            env.close()

    def _write(self, index: int, observation: Observation) -> None:
        for key, value in observation.items():
            self._arrays[key][index] = value


def _keeper(env: Any) -> Any:
    """The environment itself, if its scene can be kept."""
    if not hasattr(env.unwrapped, "scene_state"):
        raise ConfigError(
            f"the scene of {env.unwrapped.task_spec.name} cannot be kept; only widowx tasks' can"
        )
    return env.unwrapped


class Worker:
    """A process with `Members`, and the pipe to it. `start` may be called again after its death."""

    def __init__(
        self, recipe: Recipe, buffers: Mapping[str, Any], layout: Layout, part: range, cores: frozenset[int]
    ) -> None:
        self.part, self.restarts = part, 0
        self._arguments = (recipe, buffers, layout, part, cores)
        self._process: Any = None
        self._pipe: Connection | None = None

    def start(self) -> None:
        """Start the process; its first answer says that its members are built."""
        context = mp.get_context("spawn")
        ours, theirs = context.Pipe()
        with _environment(_ONE_THREAD):
            self._process = context.Process(target=_serve, args=(theirs, *self._arguments), daemon=True)
            self._process.start()
        theirs.close()  # so that our end reports the worker's death
        self._pipe = ours

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def send(self, method: str, *arguments: Any) -> None:
        """Call a method of its members; the answer comes with `receive`."""
        assert self._pipe is not None
        try:
            if method == "step":
                os.write(self._pipe.fileno(), _STEP)
            else:
                os.write(self._pipe.fileno(), _CALL)
                self._pipe.send((method, arguments))
        except OSError as error:
            raise WorkerDied from error

    def receive(self) -> tuple[str | None, Any]:
        """(text of an exception or None, what the method returned).

        Raises:
            WorkerDied: it ended without an answer.
        """
        assert self._pipe is not None
        try:
            if _tag(self._pipe) == _DONE:
                return None, None
            answer: tuple[str | None, Any] = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise WorkerDied from error
        return answer

    def stop(self) -> int | None:
        """End the process, politely and then firmly; returns its exit code. Runs again without harm."""
        if self._pipe is not None:
            self._pipe.close()  # a worker ends when its pipe does
            self._pipe = None
        if self._process is None:
            return None
        self._process.join(timeout=2)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()
        code: int | None = self._process.exitcode
        self._process.close()
        self._process = None
        return code


def shares_of_cores(workers: int) -> list[frozenset[int]]:
    """For each worker the processor cores it may run on; empty: wherever the system puts it.

    Workers wait for each other at the end of every step, and begin the next one at the same moment: the
    system's scheduler then puts two of them on one core for a millisecond or more, and the other core
    idles. Shares that do not overlap forbid that, and leave a worker several cores where there are more
    cores than workers. Where there are fewer, or on macOS, which lets no process choose, there are none.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if workers > len(cores):
        return [frozenset()] * workers
    return [frozenset(cores[index::workers]) for index in range(workers)]


def layout_of(observations: gymnasium.spaces.Dict, actions: gymnasium.spaces.Box, members: int) -> Layout:
    """What `members` environments with these spaces share with their parent."""
    layout: dict[str, tuple[tuple[int, ...], Any]] = {
        "request": (actions.shape, np.float32),
        "action": (actions.shape, np.float32),
        "reward": ((), np.float32),
        "cost": ((), np.float32),
        "filter_reason": ((), np.uint8),
        "terminated": ((), np.bool_),
        "truncated": ((), np.bool_),
        "success": ((), np.bool_),
    }
    for key, space in observations.spaces.items():
        assert isinstance(space, gymnasium.spaces.Box)
        layout[key] = (space.shape, space.dtype)
    return {name: ((members, *shape), np.dtype(dtype)) for name, (shape, dtype) in layout.items()}


def shared_buffers(layout: Layout) -> dict[str, Any]:
    """Memory without a name in the file system, so nothing is left behind however we end."""
    context = mp.get_context("spawn")
    return {
        name: context.RawArray(ctypes.c_byte, int(np.prod(shape)) * dtype.itemsize)
        for name, (shape, dtype) in layout.items()
    }


def view(buffers: Mapping[str, Any], layout: Layout) -> dict[str, npt.NDArray[Any]]:
    """The arrays that lie in `buffers`."""
    return {
        name: np.frombuffer(buffers[name], dtype).reshape(shape) for name, (shape, dtype) in layout.items()
    }


def _serve(
    pipe: Connection,
    recipe: Recipe,
    buffers: Mapping[str, Any],
    layout: Layout,
    part: range,
    cores: frozenset[int],
) -> None:
    """A worker's life: build, answer calls with (error text or None, result), end with the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    if cores:
        os.sched_setaffinity(0, cores)
    members: Members | None = None

    def answer(failure: str | None, result: Any = None) -> None:
        if failure is None and result is None:
            os.write(pipe.fileno(), _DONE)
        else:
            os.write(pipe.fileno(), _ANSWER)
            pipe.send((failure, result))

    try:
        members = Members(recipe, view(buffers, layout), part)
        answer(None)
        while True:
            method, arguments = ("step", ()) if _tag(pipe) == _STEP else pipe.recv()
            try:
                result = getattr(members, method)(*arguments)
            except Exception:  # noqa: BLE001 - whatever it is, the parent raises it
                answer(traceback.format_exc())
            else:
                answer(None, result)
    except (EOFError, OSError):
        pass
    except Exception:  # noqa: BLE001
        answer(traceback.format_exc())
    finally:
        if members is not None:
            members.close()


def _tag(pipe: Connection) -> bytes:
    """The byte that says what comes through the pipe.

    Raises:
        EOFError: nothing will; the other end is gone.
    """
    if not (tag := os.read(pipe.fileno(), 1)):
        raise EOFError
    return tag


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for the processes started inside; ours are restored."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
