"""For colcon alone; pip installs the package with the rest of the stack from the root."""

from glob import glob

from setuptools import setup

PACKAGE = "robot_rl_ros"

setup(
    name=PACKAGE,
    version="0.1.0",
    packages=[PACKAGE],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        (f"share/{PACKAGE}/launch", glob("launch/*.launch.py")),
        (f"share/{PACKAGE}/config", glob("config/*.yaml")),
    ],
    install_requires=["setuptools"],
    zip_safe=True,
    maintainer="The robot-rl authors",
    maintainer_email="maintainers@example.org",
    description="The robot-rl stack on ROS 2: simulated arm, policy, safety, reward, recorder, replay.",
    license="MIT",
    entry_points={
        "console_scripts": [
            f"{node} = {PACKAGE}.{node}:main"
            for node in (
                "sim_arm",
                "policy",
                "safety",
                "reward",
                "recorder",
                "replay",
                "teleop",
                "deadman",
                "camera",
                "conductor",
            )
        ]
    },
)
