"""The actor's half of fine-tuning: the robot acts and records, a learner elsewhere trains.

ros2 launch robot_rl_ros finetune.launch.py bundle:=SHARED/bundle reward:=MODEL record:=SHARED/episodes

The learner reads SHARED/episodes and replaces SHARED/bundle (`robot-rl export out=SHARED/bundle`); the policy
node loads a bundle that was replaced when the next episode begins. SHARED is any folder both machines see.
"""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from robot_rl_ros.launching import declared, given

ARGUMENTS = {
    "bundle": (None, "directory of the policy bundle, which the learner replaces"),
    "reward": (None, "directory of the reward model"),
    "record": (None, "directory for the episodes, which the learner reads"),
    "robot": ("real", "real or sim"),
}


def nodes(context):
    said = given(context, ARGUMENTS)
    if said["robot"] not in ("real", "sim"):
        raise ValueError(f"robot is {said['robot']!r}; expected real or sim")
    file = Path(__file__).resolve().parent / (
        "robot.launch.py" if said.pop("robot") == "real" else "sim.launch.py"
    )
    yield IncludeLaunchDescription(PythonLaunchDescriptionSource(str(file)), launch_arguments=said.items())


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [*declared(ARGUMENTS), OpaqueFunction(function=lambda context: [*nodes(context)])]
    )
