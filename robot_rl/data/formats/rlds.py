"""RLDS (the format of BridgeData V2 and Open X-Embodiment) to Episodes, without TensorFlow.

Action. BridgeData stores the commanded change over one step of .2 s, in metres and radians, and the
gripper as 0 (closed) to 1 (open). Ours lies in [-1, 1]:

    action[0:3] = clip(delta_xyz / .05)      action[3:6] = clip(delta_rpy / .25)
    action[6]   = 2 gripper - 1

so that the gripper spans as much as the others. The simulated arm takes an opening of 0 to 1 and holds what
lies below for closed: the same for BridgeData's commands, which are 0 or 1.

`from_unit_action` is the inverse; only what was clipped is lost, and `metadata.extra["clipped"]` counts
the numbers that were. The state is kept as measured (its gripper may read slightly above 1).

Steps. An RLDS step t holds the observation o_t and the action a_t that follows it, and nothing holds
the observation after the last action. So N RLDS steps become N observations and T = N - 1 steps, and
the last action is dropped. The last step's reward, on which BridgeData marks success, goes to the step
that leads there. An episode whose last step is not terminal is truncated.

Cameras. `image_0` becomes `front`, `image_N` becomes `camera_N`. A camera is a placeholder if all its
frames are of one colour, or if `has_image_N` is false while another camera's flag is true: in some
exports all flags are false although there are pictures, and then they say nothing.

Left out: the language embedding, which depends on one encoder and follows from the instruction.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from robot_rl.data import schema
from robot_rl.data.episode import Episode, EpisodeMetadata
from robot_rl.data.formats.tfrecord import Example, parse_example, read_records
from robot_rl.errors import DataError

ROBOT = "widowx250"
_SCALE = np.array([schema.DELTA_POSITION_M] * 3 + [schema.DELTA_ROTATION_RAD] * 3, np.float32)
_CAMERA = "steps/observation/image_"


def to_unit_action(raw: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """BridgeData actions (T, 7) [m, rad, 0..1] to ours in [-1, 1], clipped."""
    unit = np.concatenate([raw[:, :6] / _SCALE, 2 * raw[:, 6:] - 1], axis=1)
    clipped: npt.NDArray[np.float32] = np.clip(unit, -1, 1).astype(np.float32)
    return clipped


def from_unit_action(action: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Our actions (T, 7) in [-1, 1] to BridgeData's [m, rad, 0..1]."""
    return np.concatenate([action[:, :6] * _SCALE, (action[:, 6:] + 1) / 2], axis=1).astype(np.float32)


def read_rlds(path: str | Path) -> Iterator[Episode]:
    """The episodes of a BridgeData-style RLDS dataset, in file order.

    Args:
        path: a dataset's directory, or one of its TFRecord files.

    Raises:
        DataError: nothing there, a damaged record (named by its index), or other features.
    """
    path = Path(path)
    files = sorted(path.glob("*.tfrecord*")) if path.is_dir() else [path]
    if not path.exists() or not files:
        raise DataError(
            f"no RLDS dataset at {path}: expected a directory with *.tfrecord* files, or one file"
        )
    name = _dataset_name(files[0].parent)
    for file in files:
        for index, record in enumerate(read_records(file)):
            try:
                yield _episode(parse_example(record), name, file.name, index)
            except (ValueError, DataError) as error:
                raise DataError(f"{file} record {index} cannot be used: {error}; fetch it again") from error


def _dataset_name(folder: Path) -> str:
    info = folder / "dataset_info.json"
    try:
        return str(json.loads(info.read_text(encoding="utf-8"))["name"])
    except FileNotFoundError:
        return folder.name
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{info} cannot be read ({error}); fetch it again, or delete it") from error


def _episode(example: Example, dataset: str, file: str, index: int) -> Episode:
    raw = _numbers(example, "steps/action").reshape(-1, len(schema.ACTION_NAMES)).astype(np.float32)
    state = _numbers(example, "steps/observation/state").reshape(len(raw), -1).astype(np.float32)
    steps = len(raw) - 1
    if steps < 1:
        raise ValueError(f"{len(raw)} RLDS steps; expected at least 2")
    observations: dict[str, npt.NDArray[Any]] = {schema.STATE: state} | _cameras(example)
    reward = _step_numbers(example, "steps/reward", len(raw)).astype(np.float32)
    reward = np.append(reward[: steps - 1], reward[steps - 1] + reward[steps]).astype(np.float32)
    terminated = np.zeros(steps, bool)
    terminated[-1] = _step_numbers(example, "steps/is_terminal", len(raw))[-1] != 0
    truncated = np.zeros(steps, bool)
    truncated[-1] = not terminated[-1]
    action = to_unit_action(raw[:-1])
    lost = np.abs(from_unit_action(action) - raw[:-1]) > 1e-6
    return Episode.from_steps(
        observations,
        action,
        EpisodeMetadata(
            task=f"rlds/{dataset}",
            instruction=_text(example, "steps/language_instruction"),
            robot=ROBOT,
            control_hz=schema.CONTROL_HZ,
            source="teleoperation",
            extra={
                "file": file,
                "record": index,
                "origin": _text(example, "episode_metadata/file_path"),
                "clipped": int(lost.sum()),
            },
        ),
        reward=reward,
        terminated=terminated,
        truncated=truncated,
        success=terminated & (reward > 0),
    )


def _cameras(example: Example) -> dict[str, npt.NDArray[np.uint8]]:
    """Schema key -> frames (N, H, W, 3) of the cameras that are not placeholders."""
    names = sorted(key for key in example if key.startswith(_CAMERA))
    flags = {name: _flag(example, name.removeprefix(_CAMERA)) for name in names}
    cameras = {}
    for name in names:
        if any(flags.values()) and not flags[name]:
            continue
        frames = _frames(name, example[name])
        if (frames == frames[:1, :1, :1]).all():
            continue
        number = name.removeprefix(_CAMERA)
        camera = schema.DEFAULT_CAMERA if number == "0" else f"camera_{number}"
        cameras[schema.image_key(camera)] = frames
    return cameras


def _frames(name: str, pictures: list[bytes] | npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Encoded pictures as frames (N, H, W, 3)."""
    if not isinstance(pictures, list) or not pictures:
        raise ValueError(f"{name!r} holds no pictures")
    try:
        return np.stack([np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in pictures])
    except OSError as error:
        raise ValueError(f"{name!r} holds a picture that cannot be decoded") from error


def _flag(example: Example, number: str) -> bool:
    name = f"episode_metadata/has_image_{number}"
    return name in example and bool(_numbers(example, name).any())


def _numbers(example: Example, name: str) -> npt.NDArray[Any]:
    value = example.get(name)
    if not isinstance(value, np.ndarray):
        raise ValueError(f"it lacks numbers {name!r}; it has {', '.join(sorted(example))}")
    return value


def _step_numbers(example: Example, name: str, steps: int) -> npt.NDArray[Any]:
    """One number a step (N,); zeros where the dataset has none."""
    value = _numbers(example, name) if name in example else np.zeros(steps, np.int64)
    if len(value) != steps:
        raise ValueError(f"{name!r} has length {len(value)}; expected {steps}")
    return value


def _text(example: Example, name: str) -> str:
    value = example.get(name, [])
    return value[0].decode(errors="replace") if isinstance(value, list) and value else ""


def recognises(path: Path) -> bool:
    """Whether `path` is a directory with TFRecord files, or such a file."""
    return any(path.glob("*.tfrecord*")) if path.is_dir() else ".tfrecord" in path.name and path.is_file()
