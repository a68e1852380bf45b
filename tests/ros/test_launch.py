"""The launch and parameter files, without `launch`: what they start, and with which parameters."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml

from tests.ros.conftest import ROOT

PACKAGE = ROOT / "ros_nodes"
FILES = sorted((PACKAGE / "launch").glob("*.launch.py"))


def source_of(node: str) -> str:
    """A node's code, and what it inherits."""
    folder = PACKAGE / "robot_rl_ros"
    return "".join((folder / f"{name}.py").read_text() for name in (node, "acting", "deadman", "managed"))


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stand-ins for what comes with a ROS installation."""

    def record(kind: str) -> Any:
        return lambda *positional, **options: SimpleNamespace(kind=kind, positional=positional, **options)

    modules: dict[str, dict[str, Any]] = {
        "launch": {"LaunchDescription": lambda actions: actions},
        "launch.actions": {
            "DeclareLaunchArgument": lambda name, **options: SimpleNamespace(
                kind="argument", name=name, **options
            ),
            "OpaqueFunction": record("function"),
            "IncludeLaunchDescription": record("include"),
        },
        "launch.launch_description_sources": {"PythonLaunchDescriptionSource": str},
        "launch.substitutions": {
            "LaunchConfiguration": lambda name: SimpleNamespace(perform=lambda said: said[name])
        },
        "launch_ros": {},
        "launch_ros.actions": {"Node": record("node")},
    }
    for name, content in modules.items():
        module = ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    sys.modules["launch_ros"].__dict__["actions"] = sys.modules["launch_ros.actions"]
    monkeypatch.delitem(sys.modules, "robot_rl_ros.launching", raising=False)
    yield SimpleNamespace()
    sys.modules.pop("robot_rl_ros.launching", None)


def load(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(file.name.replace(".", "_"), file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_launch_files_are_those_that_the_documentation_names() -> None:
    assert [file.name for file in FILES] == [
        f"{name}.launch.py" for name in ("finetune", "replay", "robot", "sim")
    ]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_each_starts_nodes_that_exist_with_parameters_that_they_have(
    file: Path, launch: SimpleNamespace
) -> None:
    *declared, function = load(file).generate_launch_description()
    said = {each.name: getattr(each, "default_value", "somewhere") for each in declared}
    assert "namespace" in said
    for choices in ({}, {"acting": "teleop"}, {"robot": "sim"}, {"reward": "model", "record": "store"}):
        if not set(choices) <= set(said):
            continue
        actions = function.function(said | choices)
        assert actions
        for action in actions:
            if action.kind == "include":
                assert (PACKAGE / "launch" / Path(str(action.positional[0])).name).is_file()
                continue
            source = source_of(action.name)
            assert action.arguments == ["-m", f"robot_rl_ros.{action.name}"]
            settings, parameters = action.parameters
            assert Path(settings).is_file()
            for name in parameters:
                assert f'"{name}"' in source, f"{action.name} has no parameter {name}"


def started(name: str, **said: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Node -> (its parameter file, its own parameters) of the launch file `name` with these arguments."""
    *declared, function = load(PACKAGE / f"launch/{name}.launch.py").generate_launch_description()
    defaults = {each.name: getattr(each, "default_value", "somewhere") for each in declared}
    actions = function.function(defaults | said)
    return {each.name: (Path(each.parameters[0]).stem, each.parameters[1]) for each in actions}


def test_a_replay_on_a_real_arm_keeps_to_its_driver_and_to_a_bundles_limits(launch: SimpleNamespace) -> None:
    said = {"robot": "real", "bundle": "slow"}
    config, parameters = started("replay", **said)["safety"]
    assert (config, parameters["backend"], parameters["bundle"]) == ("robot", "interbotix", "slow")
    named = started("replay", **said, backend="forward_command_controller", arm_controller="fwd")["safety"][1]
    assert (named["backend"], named["arm_controller"]) == ("forward_command_controller", "fwd")
    config, parameters = started("replay", bundle="slow")["safety"]
    assert (config, parameters["backend"], parameters["bundle"]) == (
        "sim",
        "joint_trajectory_controller",
        "slow",
    )


def test_somebody_publishes_the_deadman_switch_wherever_the_guard_waits_for_it(
    launch: SimpleNamespace,
) -> None:
    for name in ("replay", "robot", "sim"):
        for said in ({}, {"acting": "teleop"}, {"robot": "real"}):
            nodes = started(name, **said)
            settings = yaml.safe_load((PACKAGE / f"config/{nodes['safety'][0]}.yaml").read_text())
            waits = settings["/**/safety"]["ros__parameters"]["deadman_timeout_s"] > 0
            pressing = {"teleop", "deadman"} & set(nodes)
            assert len(pressing) == 1 if waits else "deadman" not in pressing, (name, said)


@pytest.mark.parametrize("file", sorted((PACKAGE / "config").glob("*.yaml")), ids=lambda file: file.name)
def test_parameter_files_name_nodes_and_parameters_that_exist(file: Path) -> None:
    text = file.read_text()
    assert "&" not in text  # ROS reads no anchors
    for node, content in yaml.safe_load(text).items():
        source = source_of(node.removeprefix("/**/"))
        for name in content["ros__parameters"]:
            assert f'"{name}"' in source, f"{node} has no parameter {name}"


def test_every_executable_of_the_package_has_its_main() -> None:
    import ast

    tree = ast.parse((PACKAGE / "setup.py").read_text())
    names = [
        each.value
        for node in ast.walk(tree)
        if isinstance(node, ast.GeneratorExp | ast.ListComp)
        and isinstance(node.generators[0].iter, ast.Tuple)
        for each in node.generators[0].iter.elts
        if isinstance(each, ast.Constant)
    ]
    assert {"sim_arm", "policy", "safety", "reward", "recorder", "replay", "teleop", "deadman"} <= set(names)
    for name in names:
        assert "def main() -> None:" in (PACKAGE / f"robot_rl_ros/{name}.py").read_text()
