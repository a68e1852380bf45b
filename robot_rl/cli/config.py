"""From Hydra's tree to typed dataclasses. Nothing outside `robot_rl.cli` knows Hydra."""

from __future__ import annotations

import dataclasses
import itertools
import math
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import robot_rl_configs
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from robot_rl.cli.sections import SECTIONS
from robot_rl.data import schema
from robot_rl.errors import ConfigError, unknown
from robot_rl.trainers.run import Run
from sim import tasks
from sim.tasks import TASKS

CONFIG_DIR = Path(next(iter(robot_rl_configs.__path__)))
T = TypeVar("T")


def groups() -> dict[str, list[str]]:
    """Config groups and their options, as the files under configs/ give them."""
    found: dict[str, list[str]] = {}
    for file in sorted(CONFIG_DIR.glob("*/**/*.yaml")):
        group, *option = file.relative_to(CONFIG_DIR).with_suffix("").parts
        found.setdefault(group, []).append("/".join(option))
    return found


def _defaults() -> dict[str, Any]:
    """Every section with its dataclass's defaults: Hydra then knows all keys."""
    return {name: dataclasses.asdict(section()) for name, section in SECTIONS.items()}


def keys(node: Mapping[str, Any], prefix: str = "") -> Iterable[str]:
    """All dotted keys of a tree."""
    for key, value in node.items():
        yield prefix + str(key)
        if isinstance(value, Mapping):
            yield from keys(value, f"{prefix}{key}.")


def _named_task(override: str) -> list[str]:
    """`task=metaworld/drawer-open-v3` picks the adapter's options and names the task in them.

    `task.env.KEY` may be any option of `sim.make`, which refuses what it does not know.
    """
    if override.startswith("task.env."):
        return [f"++{override}"]
    if not override.startswith("task="):
        return [override]
    name = override.removeprefix("task=")
    if name in groups()["task"]:
        return [override]
    family, _, rest = name.partition("/")
    if family == "widowx" and rest in TASKS:
        return ["task=widowx/default", f"task.name={name}"]
    if rest and family != "widowx" and f"{family}/default" in groups()["task"]:
        return [f"task={family}/default", f"task.name={name}"]
    raise unknown("task", name, task_names())


def task_names() -> list[str]:
    """What `task=` takes."""
    return [*tasks(), "metaworld/<env_name>", "robosuite/<Env>"]


def expand_sweep(overrides: list[str]) -> list[list[str]]:
    """All combinations of the overrides' choices (`seed=0,1 task=a,b`), as Hydra's basic sweeper gives."""
    choices: list[list[str]] = []
    for text in overrides:
        try:
            parsed = OverridesParser.create().parse_override(text)
        except HydraException as error:
            raise ConfigError(f"cannot read the override {text!r}: {str(error).splitlines()[0]}") from error
        if parsed.is_sweep_override():
            key = parsed.get_key_element()
            choices.append([f"{key}={value}" for value in parsed.sweep_string_iterator()])
        else:
            choices.append([text])
    return [list(combination) for combination in itertools.product(*choices)]


def resolve(overrides: list[str]) -> DictConfig:
    """Compose configs/config.yaml with overrides.

    Raises:
        ConfigError: an unknown key, group option or an unreadable override, with the nearest valid ones; a
            seed or a number of threads that is none.
    """
    ConfigStore.instance().store(name="sections", node=_defaults())
    translated = [part for override in overrides for part in _named_task(override)]
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        known = groups()
        for text in translated:
            key, separator, value = text.lstrip("+~").partition("=")
            if not separator:
                raise ConfigError(f"{text!r} is not an override: expected key=value, e.g. preset=smoke")
            if key in known and value not in known[key]:
                raise unknown(key, value, known[key])
        try:
            config = compose("config", translated)
        except (ConfigCompositionException, OverrideParseException, OmegaConfBaseException) as error:
            valid = list(keys(OmegaConf.to_container(compose("config"))))  # type: ignore[arg-type]
            for text in translated:
                key = text.lstrip("+~").partition("=")[0]
                if key not in valid and key not in known:
                    raise unknown("key", key, [*valid, *known]) from error
            raise ConfigError(str(error).splitlines()[0]) from error
    for key, least, most in (("seed", 0, schema.RUNS - 1), ("threads", 0, math.inf)):
        if type(config[key]) is not int or not least <= config[key] <= most:  # a bool is an int too
            bounds = f"at least {least}" if most == math.inf else f"{least} to {most}"
            raise ConfigError(f"{key}={config[key]!r}; expected a whole number, {bounds}")
    family, _, short = str(config.task.name).partition("/")
    if config.task.demo_noise is None and family == "widowx" and short in TASKS:
        config.task.demo_noise = TASKS[short].demo_noise
    return config


def run_config(run: Run) -> DictConfig:
    """The configuration that a run was made with."""
    config = OmegaConf.load(run.path / "config.yaml")
    assert isinstance(config, DictConfig)
    return config


def _convert(kind: Any, value: Any, where: str) -> Any:
    """`value` as `kind`, or a ConfigError that names the key."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        return build(typing.cast(type, kind), value, where)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _convert(next(a for a in arguments if a is not type(None)), value, where)
    if origin is typing.Literal:
        if value not in arguments:
            raise unknown(where, str(value), map(str, arguments))
        return value
    if origin is tuple:
        any_length = arguments[-1] is Ellipsis
        if not isinstance(value, (list, tuple)) or not (any_length or len(value) == len(arguments)):
            size = "" if any_length else f" of {len(arguments)}"
            raise ConfigError(f"{where}={value!r}; expected a list{size}")
        kinds = arguments[:1] * len(value) if any_length else arguments
        return tuple(_convert(each, item, where) for each, item in zip(kinds, value, strict=True))
    if origin is dict and not isinstance(value, Mapping):
        raise ConfigError(f"{where}={value!r}; expected keys and values")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        raise ConfigError(f"{where}={value!r} is of type {type(value).__name__}; expected {kind.__name__}")
    return value


def build(cls: type[T], node: Mapping[str, Any], where: str) -> T:
    """A validated dataclass from a part of the tree. `where` is its dotted place, for errors."""
    if not isinstance(node, Mapping):
        raise ConfigError(f"{where}={node!r}; expected its keys and values, such as {where}.KEY=VALUE")
    hints = typing.get_type_hints(cls)
    plain: dict[str, Any] = OmegaConf.to_container(node) if isinstance(node, DictConfig) else dict(node)  # type: ignore[assignment]
    for key in plain:
        if key not in hints:
            raise unknown("key", f"{where}.{key}", [f"{where}.{hint}" for hint in hints])
    values = {key: _convert(hints[key], value, f"{where}.{key}") for key, value in plain.items()}
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
