"""rosbag2 recordings (MCAP or SQLite) to Episodes, through `rosbags`, without ROS.

A bag holds streams and no steps. From the moment all streams have begun until the first ends, time is cut
into steps of 1 / control_hz by the times at which the messages were recorded:

    observation k   the newest message of each sensor at t_k
    action k        the last command between t_k and t_{k+1}, else the one that still holds

| Episode | topic (the end of its name) |
|---|---|
| `observation.state`, joint positions [rad or m], in the order of the first message | `joint_states` |
| `observation.images.CAMERA` | every sensor_msgs/Image or CompressedImage |
| `action`: joint setpoints, of the same joints | `commands/joint_trajectory`, or another JointTrajectory |
| `action_requested` | `requested/joint_setpoints` (else as executed) |
| `filter_reason`: the last one that counts of the step | `guard/reason` |
| `success` | `sim/success` or `success` |

One bag is one episode; a directory of bags is a dataset. Such an episode's actions are joint setpoints and
not the [-1, 1] of the simulated tasks: it can be looked at, measured, replayed on joints and converted.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from robot_rl.data import schema
from robot_rl.data.episode import Episode, EpisodeMetadata
from robot_rl.data.formats.format import LEFT_OUT, require
from robot_rl.errors import ConfigError, DataError

EXTRA = "rosbag"
_IMAGES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
_JOINTS = "sensor_msgs/msg/JointState"
_TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"


@dataclass(frozen=True)
class BagConfig:
    """Attributes:
    control_hz: rate of the steps [Hz].
    state, executed, requested, reason, success: ends of the topics' names.
    instruction, robot, task: what the bag does not say.
    """

    control_hz: float = schema.CONTROL_HZ
    state: str = "joint_states"
    executed: str = "commands/joint_trajectory"
    requested: str = "requested/joint_setpoints"
    reason: str = "guard/reason"
    success: str = "success"
    instruction: str = ""
    robot: str = ""
    task: str = ""

    def __post_init__(self) -> None:
        if not self.control_hz > 0:
            raise ConfigError(f"control_hz={self.control_hz}; expected a rate above 0 Hz")


@dataclass
class _Stream:
    """What one topic said, and when [s]."""

    times: list[float] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)

    def at(self, time: float) -> Any:
        """The newest value at `time`; the first one before that."""
        return self.values[max(int(np.searchsorted(self.times, time, side="right")) - 1, 0)]

    def between(self, start: float, end: float) -> list[Any]:
        """The values after `start`, up to `end`."""
        first, last = np.searchsorted(self.times, [start, end], side="right")
        return self.values[int(first) : int(last)]


def recognises(path: Path) -> bool:
    """Whether `path` is a bag, or a directory of bags."""
    return bool(_bags(path))


def _bags(path: Path) -> list[Path]:
    if path.suffix in (".mcap", ".db3") and path.is_file():
        return [path]
    if not path.is_dir():
        return []
    if (path / "metadata.yaml").is_file():
        return [path]
    return sorted(
        child
        for child in path.iterdir()
        if (child / "metadata.yaml").is_file() or (child.suffix in (".mcap", ".db3") and child.is_file())
    )


def read(path: Path, config: BagConfig | None = None) -> Iterator[Episode]:
    """The episodes of the bag, or of the bags in the directory, at `path`.

    Raises:
        DataError: no bag, a damaged one, or one without joint states or commands; it names the bag.
        MissingExtraError: rosbags is not installed.
    """
    require("rosbags.highlevel", "rosbags", EXTRA)
    bags = _bags(path)
    if not bags:
        raise DataError(f"no rosbag2 recording at {path}: expected metadata.yaml, *.mcap or *.db3")
    for bag in bags:
        try:
            yield _episode(bag, config or BagConfig())
        except DataError as error:
            raise DataError(f"{bag} cannot be used: {error}") from error


def _episode(bag: Path, config: BagConfig) -> Episode:
    streams, kinds, joints = _streams(bag)

    def pick(wanted: str, kind: str) -> str | None:
        named = [topic for topic in streams if topic.endswith(wanted)]
        return next(iter(sorted(named, key=len)), None) or next(
            (topic for topic, k in kinds.items() if kind and k == kind and topic in streams), None
        )

    state, command = pick(config.state, ""), pick(config.executed, _TRAJECTORY)
    request = pick(config.requested, "")
    if state is None or (command or request) is None:
        raise DataError(
            f"it has {', '.join(sorted(streams)) or 'no messages'}; expected joint states ({config.state}) "
            f"and commands ({config.executed} or {config.requested})"
        )
    executed = streams[str(command or request)]
    cameras = {topic: streams[topic] for topic, kind in kinds.items() if kind in _IMAGES and topic in streams}
    sensors = [streams[state], *cameras.values()]
    begin = max(stream.times[0] for stream in sensors)
    end = min(stream.times[-1] for stream in (*sensors, executed))
    period = 1 / config.control_hz
    steps = int((end - begin) / period + 1e-6)
    if steps < 1:
        raise DataError(
            f"its streams overlap for {max(end - begin, 0):.2f} s; expected at least {period:.2f} s"
        )
    times = np.asarray(begin + period * np.arange(steps + 1), np.float64)
    observations: dict[str, npt.NDArray[Any]] = {
        schema.STATE: np.array([streams[state].at(t) for t in times], np.float32)
    }
    for topic, stream in cameras.items():
        observations[schema.image_key(camera_name(topic))] = np.stack([stream.at(t) for t in times])
    done = _commands(executed, times)
    asked = done if request is None else _commands(streams[request], times)
    reason, success = pick(config.reason, ""), pick(config.success, "")
    used = {state, command, request, reason, success, *cameras}
    left_out = sorted(set(kinds) - used)
    metadata = EpisodeMetadata(
        task=config.task or f"rosbag/{bag.name}",
        instruction=config.instruction,
        robot=config.robot,
        control_hz=config.control_hz,
        source="rosbag",
        extra={"joints": joints.get(state, []), "begin_s": begin}
        | ({LEFT_OUT: left_out} if left_out else {}),
    )
    return Episode.from_steps(
        observations,
        done,
        metadata,
        action_requested=asked,
        truncated=np.arange(steps) == steps - 1,
        success=_flags(streams.get(success or ""), times),
        filter_reason=_reasons(streams.get(reason or ""), times),
    )


def camera_name(topic: str) -> str:
    """`/arm/camera/front/image_raw` -> `arm_front`: the words that tell cameras apart."""
    words = [word for word in topic.split("/") if word and not word.startswith("image")]
    told = [word for word in words if word not in ("camera", "color", "rgb", "compressed")]
    return "_".join(told or words) or schema.DEFAULT_CAMERA


def _commands(stream: _Stream, times: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """The last command of each step (T, A)."""
    return np.array([stream.at(time) for time in times[1:]], np.float32)


def _flags(stream: _Stream | None, times: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    if stream is None:
        return np.zeros(len(times) - 1, bool)
    return np.array([bool(stream.at(time)) and stream.times[0] <= time for time in times[1:]])


def _reasons(stream: _Stream | None, times: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """The last reason of each step that is one of ours and not empty."""
    reasons = np.zeros(len(times) - 1, np.uint8)
    if stream is None:
        return reasons
    known = {name: index for index, name in enumerate(schema.FILTER_REASONS)}
    for step, (start, end) in enumerate(pairwise(times)):
        counted = [known[text] for text in stream.between(start, end) if known.get(text)]
        held = known.get(stream.at(end), 0) if stream.times[0] <= end else 0
        reasons[step] = counted[-1] if counted else held
    return reasons


def _streams(bag: Path) -> tuple[dict[str, _Stream], dict[str, str], dict[str, list[str]]]:
    """Topic -> what it said; topic -> type; topic -> names of its joints."""
    highlevel, typesys = (require(f"rosbags.{part}", "rosbags", EXTRA) for part in ("highlevel", "typesys"))
    store = typesys.get_typestore(typesys.Stores.ROS2_JAZZY)
    streams: dict[str, _Stream] = {}
    joints: dict[str, list[str]] = {}
    try:
        with highlevel.AnyReader([bag], default_typestore=store) as reader:
            kinds = {connection.topic: connection.msgtype for connection in reader.connections}
            for connection, stamp, raw in reader.messages():
                value = _value(reader, connection, raw, joints)
                if value is not None:
                    stream = streams.setdefault(connection.topic, _Stream())
                    stream.times.append(stamp * 1e-9)
                    stream.values.append(value)
    except (highlevel.AnyReaderError, OSError, ValueError, KeyError) as error:
        raise DataError(f"damaged or unfinished ({type(error).__name__}: {error})") from error
    return streams, kinds, joints


def _value(reader: Any, connection: Any, raw: bytes, joints: dict[str, list[str]]) -> Any:
    """A message as joints (J,), a picture (H, W, 3), a text or a flag; None if we do not use its type."""
    kind = connection.msgtype
    if kind not in (*_IMAGES, _JOINTS, _TRAJECTORY, "std_msgs/msg/Bool", "std_msgs/msg/String"):
        return None
    message = reader.deserialize(raw, kind)
    if kind in _IMAGES:
        return _picture(message)
    if kind not in (_JOINTS, _TRAJECTORY):
        return message.data
    names, values = (
        (message.name, message.position)
        if kind == _JOINTS
        else (message.joint_names, message.points[-1].positions if message.points else ())
    )
    order = joints.setdefault(connection.topic, list(names))
    table = dict(zip(names, values, strict=False))
    return [table[name] for name in order] if order and all(name in table for name in order) else None


def _picture(message: Any) -> npt.NDArray[np.uint8] | None:
    """RGB (H, W, 3); None for encodings that are no colours (depth)."""
    if hasattr(message, "format"):
        return np.asarray(Image.open(io.BytesIO(bytes(message.data))).convert("RGB"))
    channels = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}.get(message.encoding)
    if channels is None:
        return None
    rows = np.asarray(message.data, np.uint8).reshape(message.height, message.step)
    picture = rows[:, : message.width * channels].reshape(message.height, message.width, channels)
    if channels == 1:
        return picture.repeat(3, axis=2)
    picture = picture[..., :3]
    return np.ascontiguousarray(picture[..., ::-1] if message.encoding.startswith("bgr") else picture)
