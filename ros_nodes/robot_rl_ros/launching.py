"""What the launch files share. Only they import it: `launch` comes with a ROS installation, not with pip."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import launch_ros.actions
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration

Arguments = Mapping[str, tuple[str | None, str]]
"""Name -> (default, what it is); None: it is required."""


def declared(arguments: Arguments) -> list[DeclareLaunchArgument]:
    """The launch arguments, and the namespace."""
    every: dict[str, tuple[str | None, str]] = {
        "namespace": ("wx250s", "of all nodes and topics"),
        **arguments,
    }
    return [
        DeclareLaunchArgument(
            name, description=words, **({"default_value": value} if value is not None else {})
        )
        for name, (value, words) in every.items()
    ]


def given(context: Any, arguments: Arguments) -> dict[str, str]:
    """What the user said."""
    return {name: LaunchConfiguration(name).perform(context) for name in arguments}


def node(name: str, launch_file: str, config: str, **parameters: Any) -> Any:
    """The node `name` with the parameters of `config/CONFIG.yaml`, and these.

    `python -m`, so that it runs from a colcon workspace and from a pip environment alike.
    """
    settings = Path(launch_file).resolve().parent.parent / "config" / f"{config}.yaml"
    return launch_ros.actions.Node(
        executable=sys.executable,
        arguments=["-m", f"robot_rl_ros.{name}"],
        name=name,
        namespace=LaunchConfiguration("namespace"),
        parameters=[str(settings), parameters],
        output="screen",
    )
