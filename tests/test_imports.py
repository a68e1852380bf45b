"""Who may import whom: the table of docs/architecture.md, read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Package -> the packages of this project that it may import, besides itself and EVERYWHERE.
LEARNING = {"robot_rl.data", "robot_rl.agents", "robot_rl.safety", "robot_rl.trainers"}
RULES: dict[str, set[str]] = {
    "robot_rl.data": set(),
    "robot_rl.agents": {"robot_rl.data"},
    "robot_rl.safety": {"robot_rl.data"},
    "world_model": {"robot_rl.data"},
    "reward_vlm": {"robot_rl.data"},
    "sim": {"robot_rl.data"},
    "robot_rl.trainers": {"robot_rl.data", "robot_rl.agents", "robot_rl.safety"},
    "robot_rl.cli": {*LEARNING, "world_model", "reward_vlm", "sim", "robot_rl_configs"},
    "robot_rl_ros": {*LEARNING, "world_model", "reward_vlm", "sim"},
}
EVERYWHERE = {"robot_rl.errors", "robot_rl.torchvision_compat"}
FOLDERS = {"robot_rl_ros": ROOT / "ros_nodes" / "robot_rl_ros"}
HYDRA = {"hydra", "omegaconf"}
ROS = {"rclpy", "sensor_msgs", "std_msgs", "std_srvs", "trajectory_msgs", "geometry_msgs"}


def folder_of(package: str) -> Path:
    return FOLDERS.get(package, ROOT / Path(*package.split(".")))


def package_of(module: str) -> str | None:
    """The package of RULES (or module of EVERYWHERE) that `module` belongs to; None for others'."""
    for package in sorted([*RULES, *EVERYWHERE], key=len, reverse=True):
        if module == package or module.startswith(package + "."):
            return package
    return None


def imported(source: str, module: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import in `source`, wherever it stands, relative ones resolved."""
    parents = module.split(".")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [node.module] if node.module else []
            if node.level:
                base = parents[: len(parents) - node.level] + base
            yield from ((node.lineno, ".".join([*base, alias.name])) for alias in node.names)


def modules() -> Iterator[tuple[str, str, Path]]:
    """(package, module, file) of everything that RULES speaks of."""
    for package in RULES:
        for file in sorted(folder_of(package).rglob("*.py")):
            relative = file.relative_to(folder_of(package)).with_suffix("")
            # `__init__` stays in the name: a relative import in it starts from the package itself.
            yield package, ".".join([package, *relative.parts]), file


def violations(package: str, module: str, source: str) -> list[str]:
    """What `source` imports against the rules, one sentence each."""
    allowed = RULES[package] | EVERYWHERE | {package}
    found = []
    for line, name in imported(source, module):
        top = name.partition(".")[0]
        target = package_of(name)
        if target is not None and target not in allowed:
            found.append(f"line {line}: {package} imports {target} ({name})")
        if target is None and (top in {"tests", "benchmarks"} or name == "robot_rl.trainers"):
            found.append(f"line {line}: {package} imports {name}")
        if top in HYDRA and package != "robot_rl.cli":
            found.append(f"line {line}: {package} imports {name}; Hydra stays in robot_rl.cli")
        if top in ROS and package not in {"robot_rl_ros", "robot_rl.cli"}:
            found.append(f"line {line}: {package} imports {name}; ROS stays in robot_rl_ros")
        if top in {"pickle", "dill", "joblib"}:
            found.append(f"line {line}: {package} imports {name}; nothing here is pickled")
    return found


@pytest.mark.parametrize("package", RULES)
def test_imports_follow_the_table(package: str) -> None:
    broken = [
        f"{file.relative_to(ROOT)}, {sentence}"
        for owner, module, file in modules()
        if owner == package
        for sentence in violations(package, module, file.read_text())
    ]
    assert not broken, "\n".join(broken)


def test_every_module_is_covered() -> None:
    """A new package must enter the table before it can be added."""
    covered = {file for *_, file in modules()}
    rest = {ROOT / "robot_rl" / name for name in ("__init__.py", "errors.py", "torchvision_compat.py")}
    for top in ("robot_rl", "world_model", "reward_vlm", "sim", "ros_nodes/robot_rl_ros"):
        files = set((ROOT / top).rglob("*.py"))
        assert files, f"{top} holds no module"
        assert files - covered - rest == set()


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("robot_rl.data", "from robot_rl.agents import bc"),
        ("robot_rl.data", "from ..agents.bc import BCLearner"),
        ("sim", "def f():\n    import world_model.env"),
        ("world_model", "from sim import make"),
        ("reward_vlm", "from robot_rl import trainers"),
        ("robot_rl.agents", "from robot_rl.safety import CommandGuard"),
        ("robot_rl.trainers", "import sim.registry as r"),
        ("robot_rl.trainers", "from omegaconf import OmegaConf"),
        ("robot_rl.cli", "from robot_rl_ros.nodes import Arm"),
        ("robot_rl_ros", "from robot_rl.cli.main import main"),
        ("robot_rl.safety", "import rclpy"),
        ("robot_rl.data", "import pickle"),
    ],
)
def test_a_forbidden_import_is_seen(package: str, source: str) -> None:
    assert violations(package, f"{package}.module", source)


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("sim", "from robot_rl.data import schema\nfrom robot_rl.errors import ConfigError\nimport mujoco"),
        ("robot_rl.data", "from . import schema"),
        ("robot_rl.trainers", "from robot_rl.agents.policy import ActorPolicy"),
        ("robot_rl.cli", "import world_model\nimport sim\nimport hydra"),
        ("reward_vlm", "import robot_rl.torchvision_compat"),
    ],
)
def test_an_allowed_import_passes(package: str, source: str) -> None:
    assert violations(package, f"{package}.module", source) == []
