"""`robot-rl pipeline` and `robot-rl train`: stages in a run directory."""

from __future__ import annotations

import os
from typing import Any

from robot_rl.cli.context import Context
from robot_rl.cli.sections import OnlineStageConfig
from robot_rl.cli.stages import STAGES, run_stage
from robot_rl.errors import ConfigError, unknown
from robot_rl.trainers.actors import connected, require_ray


def _line(name: str, result: dict[str, Any]) -> str:
    """One stage's result in one line."""
    success = result["success"]
    if success is None:
        judged = "  ".join(f"{key} {value:.4g}" for key, value in list(result["metrics"].items())[:6])
    else:
        judged = (
            f"success {success['mean']:6.1%}  [{success['low']:.1%}, {success['high']:.1%}]  n={success['n']}"
        )
        if back := result.get("success_backward"):
            judged += f"  backward {back['mean']:6.1%}  [{back['low']:.1%}, {back['high']:.1%}]"
        if result["policy"] != name:
            judged += f"  (of {result['policy']})"
    return f"{name:12} {judged}  {result['wall_s']:.0f} s"


def pipeline(arguments: dict[str, str], overrides: list[str]) -> int:
    """Every stage, then the report."""
    context = Context.open(arguments, overrides)
    online = context.section("online", OnlineStageConfig)
    if online.mode == "actors":  # what is missing is said now rather than when its stage comes
        if online.actors.address:
            with connected(online.actors):
                pass
        else:
            require_ray()
    print(f"run: {context.run.path}", flush=True)
    for name, stage in STAGES.items():
        print(_line(name, run_stage(context, stage)), flush=True)
    context.run.close()
    from robot_rl.cli.report import write_report

    print(f"report: {write_report(context.run.path)}")
    return 0


def train_stage(arguments: dict[str, str], overrides: list[str]) -> int:
    """One stage; with `resume=`, the one that the run was made for, or the one that was interrupted.

    Raises:
        ConfigError: no stage, an unknown one, or one that a dataset cannot feed.
    """
    if "stage" in arguments and arguments["stage"] not in STAGES:
        raise unknown("stage", arguments["stage"], STAGES)
    if "stage" not in arguments and "resume" not in arguments:
        raise ConfigError(f"train needs stage=: one of {', '.join(STAGES)}. See robot-rl train --help")
    if "dataset" in arguments and arguments.get("stage") not in ("bc", "world_model"):
        raise ConfigError(f"dataset= feeds stage=bc or stage=world_model; got stage={arguments.get('stage')}")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from robot_rl.cli.cluster import train_together

        result = train_together(arguments, overrides)
        if result is not None:
            print(_line("world_model", result), flush=True)
        return 0
    context = Context.open(arguments, overrides)
    print(f"run: {context.run.path}", flush=True)
    if "stage" in arguments:
        wanted = [arguments["stage"]]
    else:
        wanted = [name for name in STAGES if (context.run.path / "stages" / name / "state.pt").exists()]
        wanted = wanted or [name for name in STAGES if context.run.done(name) is None][:1]
    for name in wanted:
        print(_line(name, run_stage(context, STAGES[name])), flush=True)
    context.run.close()
    return 0
