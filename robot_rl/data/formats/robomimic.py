"""robomimic HDF5, as robosuite and robomimic record and train from.

    data                attributes total, env_args (JSON)
    data/demo_I         attributes num_samples, model_file, ep_meta
                        actions (T, A)  rewards (T,)  dones (T,)  states (T, S)
    data/demo_I/obs/KEY, next_obs/KEY   (T, ...); pictures uint8 (T, H, W, 3)
    mask/NAME           names of the demos of a subset

Ours goes in with `obs` and `next_obs` under our observation names, so that the last observation has its
place. What robomimic has no field for (the requested action, cost, terminated, truncated, success,
interventions, the filter's reasons, our metadata) stands in data/demo_I/robot_rl, at which it does not
look. `states` are the simulator's: we have none, and write the robot's state.

A foreign file: `robot0_eef_pos`, `robot0_eef_quat` and `robot0_gripper_qpos` together become
`observation.state` (else all its vectors, by name), each key stays under `observation.KEY`, and a picture
KEY_image becomes `observation.images.KEY`. `metadata.extra` remembers the names, env_args, model_file and
masks, and writing puts them back. float64 actions and rewards become float32, which extra names too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from robot_rl.data import schema
from robot_rl.data.episode import Episode, EpisodeMetadata
from robot_rl.data.formats.format import LEFT_OUT, REPEATED, Written, new_place, require
from robot_rl.errors import DataError

EXTRA = "formats"
SOURCE = "robomimic"
"""Key of `metadata.extra`: what a foreign file had beside the episode."""
OURS = "robot_rl"
BESIDE = (
    "action_requested",
    "cost",
    "terminated",
    "truncated",
    "success",
    "is_intervention",
    "filter_reason",
)
CONTROL_HZ = 20.0
"""robosuite's default, where env_args names no other."""
_STATE_PARTS = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")
_GYM = 2
"""robomimic's number for an environment that is not robosuite's."""


def recognises(path: Path) -> bool:
    """Whether `path` is an HDF5 file (not a directory, as Minari's data sets are)."""
    return path.is_file() and path.suffix in (".hdf5", ".h5")


def write(path: Path, episodes: Iterable[Episode]) -> Written:
    """Write `episodes` as a new file at `path`.

    Raises:
        DataError: no episodes, `path` exists, or the disk is full. MissingExtraError: no h5py.
    """
    h5py = require("h5py", "h5py", EXTRA)
    masks: dict[str, list[bytes]] = {}
    total, number, lost = 0, 0, set()
    with new_place(path, directory=False) as temporary, h5py.File(temporary, "w") as file:
        data = file.create_group("data")
        for number, episode in enumerate(episodes, start=1):
            name = f"demo_{number - 1}"
            foreign = episode.metadata.extra.get(SOURCE, {})
            if number == 1:
                default = {"env_name": episode.metadata.task, "env_type": _GYM, "env_kwargs": {}}
                env_args = foreign.get("env_args", default)
                data.attrs["env_args"] = json.dumps(env_args)
            if foreign.get("env_args", env_args) != env_args:
                lost.add("env_args of some episodes (the file has one for all, the first's)")
            if foreign.get("states"):
                lost.add("states (the simulator's, which were not kept)")
            _write_demo(data.create_group(name), episode, foreign)
            total += len(episode)
            for mask in foreign.get("masks", ["success"] if episode.succeeded else ["failure"]):
                masks.setdefault(mask, []).append(name.encode())
        if not number:
            raise DataError("no episodes to write; expected at least one")
        data.attrs["total"] = total
        for mask, names in masks.items():
            file.create_dataset(f"mask/{mask}", data=np.array(names))
    return Written(number, total, tuple(sorted(lost)), (*BESIDE, "metadata"))


def _write_demo(demo: Any, episode: Episode, foreign: dict[str, Any]) -> None:
    demo.attrs["num_samples"] = len(episode)
    for name in ("model_file", "ep_meta"):
        if name in foreign:
            demo.attrs[name] = foreign[name]
    demo["actions"], demo["rewards"] = episode.action, episode.reward
    dones = foreign.get("dones", (episode.terminated | episode.truncated).astype(np.int64))
    demo["dones"] = np.asarray(dones, np.int64)
    demo["states"] = episode.observations[schema.STATE][:-1]
    names = foreign.get("keys", {key: key for key in episode.observations})
    for key, name in names.items():
        demo[f"obs/{name}"] = episode.observations[key][:-1]
        demo[f"next_obs/{name}"] = episode.observations[key][1:]
    for name in BESIDE:
        demo[f"{OURS}/{name}"] = getattr(episode, name)
    demo[f"{OURS}/metadata"] = episode.metadata.to_json()


def read(path: Path) -> Iterator[Episode]:
    """The episodes of the file at `path`, in the order of their numbers.

    Raises:
        DataError: missing, damaged, or not such a file; it names the demo. MissingExtraError: no h5py.
    """
    h5py = require("h5py", "h5py", EXTRA)
    if not path.is_file():
        raise DataError(f"no robomimic file at {path}; check the path")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"{path} is no HDF5 file, or damaged ({error}); fetch it again") from error
    with file:
        if "data" not in file or not len(file["data"]):
            raise DataError(f"{path} holds no data/demo_0; expected a robomimic file with demonstrations")
        data = file["data"]
        masks: dict[str, list[str]] = {}
        for mask, names in file["mask"].items() if "mask" in file else ():
            for name in names[()]:
                masks.setdefault(name.decode(), []).append(mask)
        for name in sorted(data, key=lambda name: int(name.rpartition("_")[2])):
            try:
                yield _read_demo(
                    data[name], json.loads(data.attrs.get("env_args", "{}")), masks.get(name, [])
                )
            except (KeyError, ValueError, OSError, DataError) as error:
                raise DataError(f"{path} {name} cannot be used: {error}; fetch the file again") from error


def _read_demo(demo: Any, env_args: dict[str, Any], masks: list[str]) -> Episode:
    action = demo["actions"][()]
    if OURS in demo:
        metadata = EpisodeMetadata.from_json(demo[f"{OURS}/metadata"][()].decode())
        names = metadata.extra.get(SOURCE, {}).get("keys", {key: key for key in demo["obs"]})
        observations = {key: _observation(demo, name) for key, name in names.items()}
        if schema.STATE not in observations:
            observations[schema.STATE] = _state({n: _observation(demo, n) for n in demo["obs"]})
        fields = {name: demo[f"{OURS}/{name}"][()] for name in BESIDE}
        return Episode.from_steps(observations, action, metadata, reward=demo["rewards"][()], **fields)
    return _foreign(demo, action, env_args, masks)


def _foreign(demo: Any, action: npt.NDArray[Any], env_args: dict[str, Any], masks: list[str]) -> Episode:
    raw = {name: _observation(demo, name) for name in demo["obs"]}
    keys = {
        (schema.image_key(name.removesuffix("_image")) if _is_picture(value) else f"observation.{name}"): name
        for name, value in raw.items()
    }
    observations = {key: raw[name] for key, name in keys.items()}
    observations.setdefault(schema.STATE, _state(raw))
    steps = len(action)
    reward = demo["rewards"][()] if "rewards" in demo else np.zeros(steps, np.float32)
    dones = demo["dones"][()].astype(int) if "dones" in demo else np.zeros(steps, int)
    won = reward > 0
    ends = (np.arange(steps) == steps - 1) & (dones[-1] > 0) & won[-1]
    source: dict[str, Any] = {"keys": keys, "env_args": env_args, "masks": masks, "dones": dones.tolist()}
    source |= {name: str(demo.attrs[name]) for name in ("model_file", "ep_meta") if name in demo.attrs}
    left_out = [f"{name} below float64" for name, v in (("actions", action), ("rewards", reward))
                if v.dtype.kind == "f" and not np.array_equal(v.astype(np.float32), v)]  # fmt: skip
    if "states" in demo:
        source["states"] = True
        left_out.append("states")
    left_out += sorted(set(demo) - {"actions", "rewards", "dones", "states", "obs", "next_obs"})
    metadata = EpisodeMetadata(
        task=f"robomimic/{env_args.get('env_name', '')}",
        instruction=str(json.loads(source.get("ep_meta", "{}")).get("lang", "")),
        robot=_robot(env_args),
        control_hz=float(env_args.get("env_kwargs", {}).get("control_freq", CONTROL_HZ)),
        source="robomimic",
        extra={SOURCE: source, LEFT_OUT: left_out} | ({} if "next_obs" in demo else {REPEATED: True}),
    )
    return Episode.from_steps(
        observations,
        action.astype(np.float32),
        metadata,
        reward=reward,
        terminated=ends,
        truncated=(np.arange(steps) == steps - 1) & ~ends,
        success=won,
    )


def _observation(demo: Any, name: str) -> npt.NDArray[Any]:
    """(T+1, ...): obs, and the last of next_obs or the last again."""
    obs = demo[f"obs/{name}"][()]
    last = demo[f"next_obs/{name}"][-1:] if f"next_obs/{name}" in demo else obs[-1:]
    return np.concatenate([obs, last])


def _state(raw: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
    """What stands for the robot's state (T+1, S): its usual keys, else every vector by name."""
    names = [name for name in _STATE_PARTS if name in raw]
    names = names or sorted(
        name for name, value in raw.items() if value.ndim == 2 and value.dtype.kind == "f"
    )
    if not names:
        raise ValueError(f"no vector among the observations {', '.join(sorted(raw))}")
    return np.concatenate([raw[name] for name in names], axis=1).astype(np.float32)


def _is_picture(value: npt.NDArray[Any]) -> bool:
    return value.dtype == np.uint8 and value.ndim == 4 and value.shape[-1] == 3


def _robot(env_args: dict[str, Any]) -> str:
    robots = env_args.get("env_kwargs", {}).get("robots", "")
    return str(robots[0]) if isinstance(robots, list) and robots else str(robots)
