"""Many environments at once, in worker processes, with observations in shared memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv

from robot_rl.errors import ConfigError
from sim.spec import CommandFilter, Observation, SimulationError, TaskSpec
from sim.workers import Members, Recipe, Worker, WorkerDied, layout_of, shared_buffers, shares_of_cores, view

MAX_RESTARTS = 10
"""How often a worker is started again before its deaths are taken for a fault that will not go away."""
_LOG = logging.getLogger(__name__)


class ParallelVectorEnv(VectorEnv[Observation, npt.NDArray[np.float32], npt.NDArray[Any]]):
    """`num_envs` members of one task, dealt to `workers` processes (0: all in this process).

    Autoreset is disabled: a member that has ended stays as it is, and stepping it costs nothing, gives
    reward 0 and repeats its last observation, flags and info, until `reset` names it.

    A worker that dies (killed, out of memory) is started again. The episodes it was in are over:
    `truncated`, with reward 0, no action, and the last observation that was returned once more; a scene
    that was to be kept (`keep_scene`) is a fresh one.

    Args:
        task: as for `sim.make`.
        num_envs: number of members N.
        workers: processes; at most one per member is started.
        command_filter_factory: picklable, called once a member; its filter judges every joint setpoint.
        env_kwargs: options for `sim.make`.

    Raises:
        ConfigError: bad counts, task or options. SimulationError: a worker raised (its text is included),
            or died more than `MAX_RESTARTS` times.
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
        recipe = Recipe(task, env_kwargs, command_filter_factory)
        probe = recipe.make()  # an error in task or options shows here, in the caller's own process
        self.num_envs = num_envs
        self.task_spec: TaskSpec = probe.unwrapped.task_spec
        self.metadata = {**probe.metadata, "autoreset_mode": AutoresetMode.DISABLED}
        self.single_observation_space, self.single_action_space = probe.observation_space, probe.action_space
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, num_envs)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)
        probe.close()
        self._instructions = [self.task_spec.instruction] * num_envs
        layout = layout_of(probe.observation_space, probe.action_space, num_envs)
        self._observation_keys = list(probe.observation_space.spaces)
        parts = np.array_split(np.arange(num_envs), min(workers, num_envs) or 1)
        members = [range(int(part[0]), int(part[-1]) + 1) for part in parts]
        self._local: Members | None = None
        self._workers: list[Worker] = []
        if workers == 0:
            self._arrays = {name: np.zeros(shape, dtype) for name, (shape, dtype) in layout.items()}
            self._local = Members(recipe, self._arrays, members[0])
            return
        buffers = shared_buffers(layout)
        self._arrays = view(buffers, layout)
        self._remember(self._observations())
        shares = shares_of_cores(len(members))
        self._workers = [Worker(recipe, buffers, layout, *each) for each in zip(members, shares, strict=True)]
        try:
            for worker in self._workers:
                worker.start()
            failures = [failure for failure, _ in (worker.receive() for worker in self._workers) if failure]
        except WorkerDied as error:
            codes = [worker.stop() for worker in self._workers]
            raise SimulationError(
                f"a simulation worker died while its environments were built (exit codes {codes})"
            ) from error
        except BaseException:
            self.close()
            raise
        if failures:
            self.close()
            raise SimulationError("a simulation worker failed:\n" + "\n".join(failures))

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
        observations = self._observations()
        self._remember(observations)
        return observations, {
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
        observations = self._observations()
        self._remember(observations)
        return observations, reward, terminated, truncated, {
            **result, "instruction": list(self._instructions)
        }  # fmt: skip

    def expert_actions(self) -> npt.NDArray[np.float32]:
        """The scripted experts' actions (N, A) for the present states."""
        self._call("expert")
        return self._arrays["request"].copy()

    def hold(self, mask: npt.NDArray[np.bool_]) -> None:
        """The members of `mask` (N,) count as ended: they stay as they are until `reset` names them."""
        self._arrays["truncated"][mask] = True

    def scenes(self) -> list[dict[str, Any]]:
        """Each member's arm and objects as they are, see `sim.widowx.WidowXEnv.scene_state`."""
        found = {index: state for part in self._call("scenes") for index, state in part.items()}
        return [found[index] for index in range(self.num_envs)]

    def restore(self, scenes: Sequence[dict[str, Any]]) -> None:
        """Bring back what `scenes` gave; `reset` with `keep_scene` then goes on from there.

        Raises:
            ConfigError: of another number of members.
        """
        if len(scenes) != self.num_envs:
            raise ConfigError(f"{len(scenes)} scenes for {self.num_envs} environments")
        self._call("restore", dict(enumerate(scenes)))

    @property
    def restarts(self) -> int:
        """How many times a worker died and was started again."""
        return sum(worker.restarts for worker in self._workers)

    def close_extras(self, **kwargs: Any) -> None:
        """End the workers, politely and then firmly. Runs again without harm."""
        if self._local is not None:
            self._local.close()
        for worker in self._workers:
            worker.stop()
        self._workers = []

    def _observations(self) -> Observation:
        return {key: self._arrays[key].copy() for key in self._observation_keys}

    def _remember(self, observations: Observation) -> None:
        """What was returned last: a worker that dies may leave half a step in the shared arrays."""
        flags = {name: self._arrays[name].copy() for name in ("terminated", "truncated", "success")}
        self._last: Observation = observations | flags

    def _call(self, method: str, *arguments: Any) -> list[Any]:
        """`method` of all members; a list of what each worker's part returned."""
        if self._local is not None:
            return [getattr(self._local, method)(*arguments)]
        if not self._workers:
            raise SimulationError("the vector environment is closed")
        try:
            results = self._ask(self._workers, method, arguments)
            lost = [worker for worker, result in zip(self._workers, results, strict=True) if result is None]
            for worker in lost:
                self._revive(worker)
            if lost and method != "step":  # a step of lost members is their truncation
                again = iter(self._ask(lost, method, arguments))
                results = [next(again) if result is None else result for result in results]
        except KeyboardInterrupt:
            self.close()  # answers are under way: this environment cannot be used any more
            raise
        if None in results and method != "step":
            self.close()
            raise SimulationError(f"a simulation worker died twice in a row during {method}")
        answers = [result or (None, None) for result in results]
        failures = [failure for failure, _ in answers if failure is not None]
        if failures:
            raise SimulationError("a simulation worker failed:\n" + "\n".join(failures))
        return [answer for _, answer in answers]

    def _ask(
        self, workers: Sequence[Worker], method: str, arguments: tuple[Any, ...]
    ) -> list[tuple[str | None, Any] | None]:
        """Each worker's (failure, answer), None where it died; they work at the same time."""
        asked = []
        for worker in workers:
            try:
                worker.send(method, *arguments)
                asked.append(True)
            except WorkerDied:
                asked.append(False)
        results: list[tuple[str | None, Any] | None] = []
        for worker, alive in zip(workers, asked, strict=True):
            try:
                results.append(worker.receive() if alive else None)
            except WorkerDied:
                results.append(None)
        return results

    def _revive(self, worker: Worker) -> None:
        """Start a dead worker again and end the episodes it was in."""
        code = worker.stop()
        worker.restarts += 1
        _LOG.warning(
            "simulation worker of members %s died (exit code %s): restarted", list(worker.part), code
        )
        try:
            if worker.restarts > MAX_RESTARTS:
                raise WorkerDied
            worker.start()
            failure, _ = worker.receive()
            worker.send("stand_in")
            failure = worker.receive()[0] or failure
        except WorkerDied as error:
            self.close()
            raise SimulationError(
                f"a simulation worker died {worker.restarts} times, the last time with exit code {code}: "
                "see the system log (out of memory?), or use fewer members"
            ) from error
        if failure:
            self.close()
            raise SimulationError(f"a simulation worker failed:\n{failure}")
        part = np.array(worker.part)
        for name, values in self._last.items():
            self._arrays[name][part] = values[part]
        over = part[~(self._last["terminated"] | self._last["truncated"])[part]]
        self._arrays["truncated"][over] = True
        for name in ("reward", "cost", "filter_reason", "action"):
            self._arrays[name][over] = 0
