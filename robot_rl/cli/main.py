"""`robot-rl VERB [key=value ...]`: the one program."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from robot_rl import __version__
from robot_rl.cli.catalogue import VERBS, Verb
from robot_rl.errors import ConfigError, Interrupted, RobotRLError, unknown

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130

# glibc returns large blocks to the kernel and faults them in again at every step; keeping them is worth
# 1.3 to 1.7 times the training speed on two cores. Only honoured when set before the process starts.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
}


def _overview() -> str:
    lines = [
        f"robot-rl {__version__}: from a handful of demonstrations to a policy that keeps improving, safely.",
        "",
        "usage: robot-rl VERB [key=value ...] [-m]",
        "",
    ]
    lines += [f"  {name:10} {verb.summary}" for name, verb in VERBS.items()]
    lines += ["", "`robot-rl VERB --help` shows a verb's arguments, config groups and examples."]
    return "\n".join(lines)


def _help(name: str, verb: Verb) -> str:
    lines = [f"robot-rl {name}: {verb.summary}", ""]
    if verb.arguments:
        lines += ["arguments:"] + [f"  {key + '=':13} {text}" for key, text in verb.arguments.items()] + [""]
    if verb.configured:
        from robot_rl.cli.config import groups, task_names
        from robot_rl.cli.sections import SECTIONS

        options = {**groups(), "task": task_names()}
        lines += ["config groups (GROUP=OPTION):"]
        lines += [f"  {group + '=':13} {', '.join(names)}" for group, names in options.items()]
        lines += [
            "",
            "config sections (SECTION.KEY=VALUE; `robot-rl " + name + " --cfg` prints every key):",
            "  seed, " + ", ".join(SECTIONS),
            "",
            "-m runs every combination of comma-separated values, e.g. seed=0,1,2",
            "",
        ]
    return "\n".join([*lines, "examples:", *(f"  {example}" for example in verb.examples)])


def _split(name: str, verb: Verb, words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The verb's own arguments, and the Hydra overrides."""
    arguments: dict[str, str] = {}
    overrides = []
    for word in words:
        key, separator, value = word.partition("=")
        if separator and key in verb.arguments:
            arguments[key] = value
        elif word in verb.flags:
            arguments[word.lstrip("-")] = "yes"
        elif word in verb.subjects:
            arguments["subject"] = word
        elif verb.configured and separator:
            overrides.append(word)
        elif word.startswith("-"):
            raise unknown("option", word, ["--help", "-m", "--cfg", *verb.flags])
        else:
            raise unknown(f"argument of {name}", key, verb.arguments)
    if verb.subjects and "subject" not in arguments:
        raise ConfigError(f"{name} needs a subject: {', '.join(verb.subjects)}. See robot-rl {name} --help")
    missing = [key for key in verb.required if key not in arguments]
    if missing:
        raise ConfigError(
            f"{name} needs {missing[0]}=: {verb.arguments[missing[0]]}. See robot-rl {name} --help"
        )
    return arguments, overrides


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if words[0] in ("-V", "--version"):
        print(__version__)
        return 0
    name, *rest = words
    if name not in VERBS:
        raise unknown("verb", name, VERBS)
    verb = VERBS[name]
    if "-h" in rest or "--help" in rest:
        print(_help(name, verb))
        return 0
    sweep = "-m" in rest or "--multirun" in rest
    show = "--cfg" in rest
    rest = [word for word in rest if word not in ("-m", "--multirun", "--cfg")]
    combinations = [rest]
    if sweep:
        from robot_rl.cli.config import expand_sweep

        combinations = expand_sweep(rest)
    code = 0
    for number, combination in enumerate(combinations):
        arguments, overrides = _split(name, verb, combination)
        if show:
            from omegaconf import OmegaConf

            from robot_rl.cli.config import resolve

            print(OmegaConf.to_yaml(resolve(overrides)))
            continue
        if sweep:
            print(f"[{number + 1}/{len(combinations)}] robot-rl {name} {' '.join(combination)}", flush=True)
            if "run" in arguments:
                arguments["run"] += f"_{number}"
        module, _, function = verb.function.partition(":")
        run: Callable[[dict[str, str], list[str]], Any] = getattr(
            importlib.import_module(f"robot_rl.cli.{module}"), function
        )
        code = max(code, int(run(arguments, overrides) or 0))
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status (0 done, 2 the user's error, 130 interrupted)."""
    words = list(sys.argv[1:] if argv is None else argv)
    if argv is None and sys.platform == "linux" and not ALLOCATOR.keys() <= os.environ.keys():
        os.execve(
            sys.executable,
            [sys.executable, "-m", "robot_rl.cli.main", *words],
            os.environ | {key: os.environ.get(key, value) for key, value in ALLOCATOR.items()},
        )
    try:
        return _dispatch(words)
    except Interrupted as stop:
        print(f"robot-rl: {stop}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except RobotRLError as error:
        print(f"robot-rl: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("robot-rl: interrupted; what was saved stands", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return 0


if __name__ == "__main__":
    sys.exit(main())
