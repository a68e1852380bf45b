"""Many environments at once, in worker processes, with observations in shared memory."""

from __future__ import annotations

import ctypes
import multiprocessing as mp
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv

from robot_rl.errors import ConfigError
from sim import registry
from sim.spec import CommandFilter, Observation, SimulationError, TaskSpec

# Workers share two cores with a learner: one thread each, in NumPy and in Mesa.
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LP_NUM_THREADS"), "1"
)


@dataclass(frozen=True)
class _Recipe:
    """Everything a worker needs to build its members."""

    task: str
    options: Mapping[str, Any]
    command_filter_factory: Callable[[], CommandFilter | None] | None


class _Members:
    """Steps some members in this process, reading actions from and writing results to `arrays`."""

    def __init__(self, recipe: _Recipe, arrays: Mapping[str, npt.NDArray[Any]], members: range) -> None:
        self._arrays, self._members = arrays, members
        self._envs = {index: _make(recipe) for index in members}

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

    def close(self) -> None:
        for env in self._envs.values():
            env.close()

    def _write(self, index: int, observation: Observation) -> None:
        for key, value in observation.items():
            self._arrays[key][index] = value


def _make(recipe: _Recipe) -> Any:
    env = registry.make(recipe.task, **recipe.options)
    if recipe.command_filter_factory is not None:
        if not hasattr(env.unwrapped, "set_command_filter"):
            raise ConfigError(f"task {recipe.task!r} takes no command filter; only widowx tasks do")
        env.unwrapped.set_command_filter(recipe.command_filter_factory())
    return env


class ParallelVectorEnv(VectorEnv[Observation, npt.NDArray[np.float32], npt.NDArray[Any]]):
    """`num_envs` members of one task, dealt to `workers` processes (0: all in this process).

    Autoreset is disabled: a member that has ended stays as it is, and stepping it costs nothing, gives
    reward 0 and repeats its last observation, flags and info, until `reset` names it.

    Args:
        task: as for `sim.make`.
        num_envs: number of members N.
        workers: processes; at most one per member is started.
        command_filter_factory: picklable, called once a member; its filter judges every joint setpoint.
        env_kwargs: options for `sim.make`.

    Raises:
        ConfigError: bad counts, task or options. SimulationError: a worker failed; its text is included.
    """

    def __init__(
        self,
        task: str,
        num_envs: int,
        workers: int = 2,
        command_filter_factory: Callable[[], CommandFilter | None] | None = None,
        **env_kwargs: Any,
    ) -> None:
        if num_envs < 1 or workers < 0:
            raise ConfigError(f"num_envs={num_envs}, workers={workers}; expected num_envs >= 1, workers >= 0")
        recipe = _Recipe(task, env_kwargs, command_filter_factory)
        probe = _make(recipe)  # an error in task or options shows here, in the caller's own process
        self.num_envs = num_envs
        self.task_spec: TaskSpec = probe.unwrapped.task_spec
        self.metadata = {**probe.metadata, "autoreset_mode": AutoresetMode.DISABLED}
        self.single_observation_space, self.single_action_space = probe.observation_space, probe.action_space
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, num_envs)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)
        probe.close()
        self._instructions = [self.task_spec.instruction] * num_envs
        layout = _layout(probe.observation_space, probe.action_space, num_envs)
        self._observation_keys = list(probe.observation_space.spaces)
        parts = np.array_split(np.arange(num_envs), min(workers, num_envs) or 1)
        members = [range(int(part[0]), int(part[-1]) + 1) for part in parts]
        self._local: _Members | None = None
        self._workers: list[tuple[Any, Connection]] = []
        if workers == 0:
            self._arrays = {name: np.zeros(shape, dtype) for name, (shape, dtype) in layout.items()}
            self._local = _Members(recipe, self._arrays, members[0])
            return
        context = mp.get_context("spawn")
        # RawArray memory has no name in the file system, so nothing is left behind however we end.
        buffers = {
            name: context.RawArray(ctypes.c_byte, int(np.prod(shape)) * dtype.itemsize)
            for name, (shape, dtype) in layout.items()
        }
        self._arrays = _view(buffers, layout)
        try:
            with _environment(_ONE_THREAD):
                for part in members:
                    self._start(context, (recipe, buffers, layout, part))
            self._gather()
        except BaseException:
            self.close()
            raise

    def _start(self, context: SpawnContext, arguments: tuple[Any, ...]) -> None:
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, *arguments), daemon=True)
        process.start()
        theirs.close()  # so that our end reports a worker's death
        self._workers.append((process, ours))

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start new episodes where `options["reset_mask"]` (N,) is true (without it: everywhere).

        `seed` is a list of N seeds, or one number from which member i takes seed + i, or None. The other
        options go to the members, for example `keep_scene` and `task` of `sim.widowx.WidowXEnv`.
        """
        options = dict(options or {})
        mask = np.asarray(options.pop("reset_mask", np.ones(self.num_envs)), bool)
        if mask.shape != (self.num_envs,):
            raise ConfigError(f"reset_mask has shape {mask.shape}; expected ({self.num_envs},)")
        seeds: list[int | None]
        if seed is None:
            seeds = [None] * self.num_envs
        elif isinstance(seed, int | np.integer):
            seeds = [int(seed) + index for index in range(self.num_envs)]
        else:
            seeds = [None if value is None else int(value) for value in seed]
        if len(seeds) != self.num_envs:
            raise ConfigError(f"{len(seeds)} seeds for {self.num_envs} environments")
        chosen = {int(i): seeds[i] for i in np.flatnonzero(mask)}
        for instructions in self._call("reset", chosen, options):
            for index, instruction in instructions.items():
                self._instructions[index] = instruction
        return self._observations(), {
            "success": self._arrays["success"].copy(),
            "instruction": list(self._instructions),
        }

    def step(
        self, actions: npt.NDArray[np.float32]
    ) -> tuple[Observation, npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any], dict[str, Any]]:
        """One step of every member that has not ended; `actions` (N, A) in [-1, 1]."""
        request = self._arrays["request"]
        if np.shape(actions) != request.shape:
            raise SimulationError(f"actions have shape {np.shape(actions)}; expected {request.shape}")
        request[:] = actions
        self._call("step")
        result = {
            name: self._arrays[name].copy()
            for name in ("reward", "terminated", "truncated", "success", "action", "cost", "filter_reason")
        }
        reward, terminated, truncated = (result.pop(name) for name in ("reward", "terminated", "truncated"))
        return self._observations(), reward, terminated, truncated, {
            **result, "instruction": list(self._instructions)
        }  # fmt: skip

    def expert_actions(self) -> npt.NDArray[np.float32]:
        """The scripted experts' actions (N, A) for the present states."""
        self._call("expert")
        return self._arrays["request"].copy()

    def close_extras(self, **kwargs: Any) -> None:
        """End the workers, politely and then firmly. Runs again without harm."""
        if self._local is not None:
            self._local.close()
        for _, pipe in self._workers:
            pipe.close()  # a worker ends when its pipe does
        for process, _ in self._workers:
            process.join(timeout=2)
            if process.is_alive():
                process.terminate()
                process.join()
            process.close()
        self._workers = []

    def _observations(self) -> Observation:
        return {key: self._arrays[key].copy() for key in self._observation_keys}

    def _call(self, method: str, *arguments: Any) -> list[Any]:
        if self._local is not None:
            return [getattr(self._local, method)(*arguments)]
        if not self._workers:
            raise SimulationError("the vector environment is closed")
        try:
            for _, pipe in self._workers:
                pipe.send((method, arguments))
            return self._gather()
        except OSError as error:
            raise self._lost() from error
        except KeyboardInterrupt:
            self.close()  # answers are under way: this environment cannot be used any more
            raise

    def _gather(self) -> list[Any]:
        answers, failures = [], []
        for _, pipe in self._workers:
            try:
                failure, answer = pipe.recv()
            except (EOFError, OSError) as error:
                raise self._lost() from error
            answers.append(answer)
            if failure is not None:
                failures.append(failure)
        if failures:
            raise SimulationError("a simulation worker failed:\n" + "\n".join(failures))
        return answers

    def _lost(self) -> SimulationError:
        for process, _ in self._workers:
            process.join(timeout=0.2)
        codes = [process.exitcode for process, _ in self._workers]
        self.close()
        return SimulationError(f"a simulation worker died (exit codes {codes}; None = was still alive)")


_Layout = dict[str, tuple[tuple[int, ...], np.dtype]]


def _layout(observations: gymnasium.spaces.Dict, actions: gymnasium.spaces.Box, members: int) -> _Layout:
    """Name -> (shape, dtype) of everything that parent and workers share."""
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


def _view(buffers: Mapping[str, Any], layout: _Layout) -> dict[str, npt.NDArray[Any]]:
    return {
        name: np.frombuffer(buffers[name], dtype).reshape(shape) for name, (shape, dtype) in layout.items()
    }


def _serve(
    pipe: Connection, recipe: _Recipe, buffers: Mapping[str, Any], layout: _Layout, part: range
) -> None:
    """A worker's life: build, answer calls with (error text or None, answer), end with the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    members: _Members | None = None
    try:
        members = _Members(recipe, _view(buffers, layout), part)
        pipe.send((None, None))
        while True:
            method, arguments = pipe.recv()
            try:
                pipe.send((None, getattr(members, method)(*arguments)))
            except Exception:  # noqa: BLE001 - whatever it is, the parent raises it
                pipe.send((traceback.format_exc(), None))
    except (EOFError, OSError):
        pass
    except Exception:  # noqa: BLE001
        pipe.send((traceback.format_exc(), None))
    finally:
        if members is not None:
            members.close()


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
