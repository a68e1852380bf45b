"""The whole graph on a simulated arm.

ros2 launch robot_rl_ros sim.launch.py bundle:=/path/to/bundle
ros2 service call /wx250s/safety/reset std_srvs/srv/Trigger
ros2 service call /wx250s/policy/enable std_srvs/srv/SetBool "{data: true}"
"""

import sys
from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

CONFIG = str(Path(__file__).resolve().parent.parent / "config" / "sim.yaml")


def generate_launch_description() -> LaunchDescription:
    bundle = {"bundle": LaunchConfiguration("bundle")}
    parameters = {"sim_arm": [CONFIG], "policy": [CONFIG, bundle], "safety": [CONFIG, bundle]}
    return LaunchDescription(
        [
            DeclareLaunchArgument("bundle", description="directory of the policy bundle"),
            DeclareLaunchArgument("namespace", default_value="wx250s"),
            # `python -m`, so that it runs from a colcon workspace and from a pip environment alike.
            *(
                Node(
                    executable=sys.executable,
                    arguments=["-m", f"robot_rl_ros.{name}"],
                    name=name,
                    namespace=LaunchConfiguration("namespace"),
                    parameters=values,
                    output="screen",
                )
                for name, values in parameters.items()
            ),
        ]
    )
