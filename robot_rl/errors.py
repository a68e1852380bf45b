"""The one base error of the stack.

A `RobotRLError` says three things in one line: the bad value, what was expected, and the remedy or
the valid choices. The command line prints it without a traceback and exits with status 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RobotRLError(Exception):
    """Base of every error that a user can cause and mend."""


class ConfigError(RobotRLError):
    """A configuration value or key is not usable."""


class DataError(RobotRLError):
    """A dataset, an episode or a checkpoint on disk is missing, corrupt, or does not fit."""


class Interrupted(RobotRLError):
    """Ctrl-C: the state is saved, and the run can be resumed."""


class MissingExtraError(RobotRLError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed: run `pip install robot-rl[{extra}]`")


def unknown(kind: str, value: str, choices: Iterable[str]) -> ConfigError:
    """The error for a name that is not one of `choices`, with the nearest ones first."""
    names = sorted(choices)
    near = difflib.get_close_matches(value, names, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    listed = ", ".join(names[:40]) + (", ..." if len(names) > 40 else "")
    return ConfigError(f"unknown {kind} {value!r}: {hint}Valid: {listed}")
