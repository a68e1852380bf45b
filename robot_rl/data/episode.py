"""`Episode`: T+1 observations and T steps of one attempt at one task."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from robot_rl.data import schema
from robot_rl.errors import DataError

STEP_DTYPES: dict[str, type[np.generic]] = {
    "action": np.float32,
    "action_requested": np.float32,
    "reward": np.float32,
    "cost": np.float32,
    "terminated": np.bool_,
    "truncated": np.bool_,
    "success": np.bool_,
    "is_intervention": np.bool_,
    "filter_reason": np.uint8,
}


ACTION_FREE = "action_free"
"""In the metadata's `extra`: true where the episode's actions are zeros that mean nothing."""


@dataclass(frozen=True)
class EpisodeMetadata:
    """What an episode is of, and where it came from."""

    task: str
    instruction: str
    robot: str
    control_hz: float
    seed: int = -1
    source: str = ""
    """Who acted: `expert`, `random`, a policy's or an operator's name."""
    versions: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Anything JSON-serialisable that a reader of the source format wants to keep."""

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> EpisodeMetadata:
        return cls(**json.loads(text))


@dataclass
class Episode:
    """One episode. `T` steps, `A` action dimensions.

    `terminated` (the task ended: its value is final) and `truncated` (the clock ended: the value goes
    on and is bootstrapped) are two things. `action` is what was executed, `action_requested` what the
    policy asked for; they differ where a safety filter stepped in, and `filter_reason` says why.

    Attributes:
        observations: key -> array (T+1, ...), keys as in `schema`.
        action: executed, float32 (T, A). action_requested: float32 (T, A).
        reward, cost: float32 (T,). terminated, truncated, success, is_intervention: bool (T,).
        filter_reason: index into `schema.FILTER_REASONS`, uint8 (T,).
        metadata: task, instruction, robot, rates and origin.

    Raises:
        DataError: a field's length, dtype or finiteness is wrong; the message names the field.
    """

    observations: dict[str, npt.NDArray[Any]]
    action: npt.NDArray[np.float32]
    action_requested: npt.NDArray[np.float32]
    reward: npt.NDArray[np.float32]
    cost: npt.NDArray[np.float32]
    terminated: npt.NDArray[np.bool_]
    truncated: npt.NDArray[np.bool_]
    success: npt.NDArray[np.bool_]
    is_intervention: npt.NDArray[np.bool_]
    filter_reason: npt.NDArray[np.uint8]
    metadata: EpisodeMetadata

    def __post_init__(self) -> None:
        steps = len(self.action)
        if steps == 0:
            raise DataError("episode has 0 steps; expected at least 1")
        for name, dtype in STEP_DTYPES.items():
            value = getattr(self, name)
            if value.dtype != dtype or len(value) != steps:
                raise DataError(
                    f"episode field {name!r} is {value.dtype} of length {len(value)}; "
                    f"expected {np.dtype(dtype)} of length {steps} (as `action`)"
                )
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise DataError(f"episode field {name!r} holds a non-finite number")
        if schema.STATE not in self.observations:
            raise DataError(f"episode lacks {schema.STATE!r}; it has {sorted(self.observations)}")
        for key, value in self.observations.items():
            if len(value) != steps + 1:
                raise DataError(f"episode observation {key!r} has length {len(value)}; expected {steps + 1}")

    def __len__(self) -> int:
        """The number of steps T."""
        return len(self.action)

    @classmethod
    def from_steps(
        cls,
        observations: dict[str, npt.NDArray[Any]],
        action: npt.NDArray[np.float32],
        metadata: EpisodeMetadata,
        **fields: npt.NDArray[Any],
    ) -> Episode:
        """An episode whose missing step fields take their neutral value (requested = executed)."""
        steps = len(action)
        values: dict[str, npt.NDArray[Any]] = {
            name: np.zeros(steps, dtype) for name, dtype in STEP_DTYPES.items()
        }
        values["action"] = values["action_requested"] = np.asarray(action, np.float32)
        values |= {name: np.asarray(value, STEP_DTYPES[name]) for name, value in fields.items()}
        return cls(observations=observations, metadata=metadata, **values)

    @property
    def succeeded(self) -> bool:
        """Whether any step was a success by the recorder's ground truth."""
        return bool(self.success.any())

    @property
    def action_free(self) -> bool:
        """Whether the actions mean nothing."""
        return bool(self.metadata.extra.get(ACTION_FREE, False))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Every array by its schema name, observations included."""
        return dict(self.observations) | {name: getattr(self, name) for name in STEP_DTYPES}

    def content_hash(self) -> str:
        """SHA-256 over names, dtypes, shapes, bytes and metadata, as hexadecimal digits."""
        digest = hashlib.sha256(self.metadata.to_json().encode())
        for name, value in sorted(self.arrays().items()):
            digest.update(f"{name}|{value.dtype.str}|{value.shape}".encode())
            digest.update(np.ascontiguousarray(value).data)
        return digest.hexdigest()
