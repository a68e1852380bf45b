"""The graph on a real arm, beside the arm's own driver, a camera's and `joy_node`, which must run already.

ros2 launch robot_rl_ros robot.launch.py bundle:=/path/to/bundle image:=/camera/color/image_raw
"""

from launch import LaunchDescription
from launch.actions import OpaqueFunction
from robot_rl_ros.launching import declared, given, node

ARGUMENTS = {
    "bundle": (None, "directory of the policy bundle"),
    "image": ("image_raw", "topic of the camera driver's pictures, rgb8 or bgr8"),
    "image_size": ("64", "pixels; as in the bundle"),
    "acting": ("policy", "policy or teleop"),
    "task": ("widowx/push", "the task, for teleop"),
    "backend": ("interbotix", "interbotix, joint_trajectory_controller or forward_command_controller"),
    "arm_controller": ("arm_controller", "the ros2_control controller of the arm"),
    "gripper_controller": ("", "that of the gripper, if it has its own"),
    "reward": ("", "directory of a reward model; empty: no reward node"),
    "record": ("", "directory for episodes; empty: no recorder"),
}
DRIVER = ("backend", "arm_controller", "gripper_controller")


def nodes(context):
    said = given(context, ARGUMENTS)
    bundle = {"bundle": said["bundle"]}
    yield node("camera", __file__, "robot", source=said["image"], size=int(said["image_size"]))
    yield node("safety", __file__, "robot", **bundle, **{name: said[name] for name in DRIVER})
    task = {"task": said["task"]} if said["acting"] == "teleop" else {}
    yield node(said["acting"], __file__, "robot", **bundle, **task)
    if said["acting"] != "teleop":
        yield node("deadman", __file__, "robot")
    if said["reward"]:
        yield node("reward", __file__, "robot", model=said["reward"], acting=said["acting"])
    if said["record"]:
        yield node("recorder", __file__, "robot", **bundle, store=said["record"], judged=bool(said["reward"]))


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [*declared(ARGUMENTS), OpaqueFunction(function=lambda context: [*nodes(context)])]
    )
