"""The whole graph on a simulated arm.

ros2 launch robot_rl_ros sim.launch.py bundle:=/path/to/bundle
ros2 service call /wx250s/safety/reset std_srvs/srv/Trigger
ros2 service call /wx250s/policy/enable std_srvs/srv/SetBool "{data: true}"
"""

from launch import LaunchDescription
from launch.actions import OpaqueFunction
from robot_rl_ros.launching import declared, given, node

ARGUMENTS = {
    "bundle": (None, "directory of the policy bundle"),
    "acting": ("policy", "policy or teleop"),
    "task": ("widowx/push", "the simulated task"),
    "reward": ("", "directory of a reward model; empty: no reward node"),
    "record": ("", "directory for episodes; empty: no recorder"),
}


def nodes(context):
    said = given(context, ARGUMENTS)
    bundle, task = {"bundle": said["bundle"]}, {"task": said["task"]}
    yield node("sim_arm", __file__, "sim", **task, **bundle)
    yield node("safety", __file__, "sim", **bundle)
    yield node(said["acting"], __file__, "sim", **bundle, **(task if said["acting"] == "teleop" else {}))
    if said["reward"]:
        yield node("reward", __file__, "sim", model=said["reward"], acting=said["acting"])
    if said["record"]:
        judged = bool(said["reward"])
        yield node("recorder", __file__, "sim", **bundle, store=said["record"], truth=True, judged=judged)


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [*declared(ARGUMENTS), OpaqueFunction(function=lambda context: [*nodes(context)])]
    )
