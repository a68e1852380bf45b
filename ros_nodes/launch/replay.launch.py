"""A recorded episode again, through the safety node: on the simulated arm, or on a real one.

ros2 launch robot_rl_ros replay.launch.py dataset:=/path/to/episodes episode:=3
ros2 service call /wx250s/safety/reset std_srvs/srv/Trigger
ros2 service call /wx250s/replay/enable std_srvs/srv/SetBool "{data: true}"
"""

from launch import LaunchDescription
from launch.actions import OpaqueFunction
from robot_rl_ros.launching import declared, given, node

ARGUMENTS = {
    "dataset": (None, "the episodes"),
    "episode": ("0", "which of them"),
    "speed": ("1.0", "at most 1: 1, 1/2, 1/3 ..."),
    "single_step": ("false", "an action only when replay/step is called"),
    "robot": ("sim", "sim or real"),
    "task": ("widowx/push", "the simulated task"),
    "seed": ("9000000", "of the simulated scene; the episode's own for the same objects"),
    "bundle": ("", "directory whose limits hold; give one with robot:=real"),
    "backend": ("", "as in robot.launch.py; empty: interbotix with robot:=real"),
    "arm_controller": ("arm_controller", "as in robot.launch.py"),
    "gripper_controller": ("", "as in robot.launch.py"),
}


def nodes(context):
    said = given(context, ARGUMENTS)
    if said["robot"] not in ("real", "sim"):
        raise ValueError(f"robot is {said['robot']!r}; expected real or sim")
    real = said["robot"] == "real"
    config = "robot" if real else "sim"
    if real:
        yield node("deadman", __file__, config)
    else:
        scene = {"task": said["task"], "seed": int(said["seed"]), "bundle": said["bundle"]}
        yield node("sim_arm", __file__, config, **scene)
    said["backend"] = said["backend"] or ("interbotix" if real else "joint_trajectory_controller")
    limits_and_driver = ("bundle", "backend", "arm_controller", "gripper_controller")
    yield node("safety", __file__, config, **{name: said[name] for name in limits_and_driver})
    yield node(
        "replay",
        __file__,
        config,
        dataset=said["dataset"],
        episode=int(said["episode"]),
        speed=float(said["speed"]),
        single_step=said["single_step"].lower() == "true",
    )


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [*declared(ARGUMENTS), OpaqueFunction(function=lambda context: [*nodes(context)])]
    )
