"""`sysid`: the parameters of an arm from a log of its joints."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from robot_rl.cli.verbs import whole_number
from robot_rl.errors import ConfigError
from sim.arm_model import ArmParameters, arm_model
from sim.sysid import JointLog, SysIdConfig, identify, joint_error


def sysid(arguments: dict[str, str], overrides: list[str]) -> int:
    """Fit, print the error of each joint before and after, write the parameters."""
    arm = arm_model(arguments.get("robot", "widowx_250s"))
    try:
        period = float(arguments.get("period", "0"))
    except ValueError as error:
        raise ConfigError(f"period={arguments['period']!r}; expected seconds") from error
    log = JointLog.load(arguments["log"], arm, period)
    config = SysIdConfig(max_iterations=whole_number(arguments, "iterations", SysIdConfig.max_iterations))
    out = Path(arguments.get("out", f"{arm.name}.json"))
    fitted_on, held_out = log.split()
    found = identify(fitted_on, arm, config)
    nominal = ArmParameters.nominal(arm)
    errors = [
        1e3 * joint_error(parameters, part)
        for part in (fitted_on, held_out)
        for parameters in (nominal, found.parameters)
    ]
    print(f"root mean square joint error [mrad] on {len(fitted_on.segment)} fitted samples and on")
    print(f"{len(held_out.segment)} held-out ones, with the nominal parameters -> with those found")
    rows = np.stack(errors, axis=1)
    total = np.sqrt(np.mean(rows**2, axis=0))
    for name, row in zip([*arm.joints, "all"], [*rows, total], strict=True):
        print(
            f"  {name:13} fitted {row[0]:7.2f} -> {row[1]:6.2f}   held out {row[2]:7.2f} -> {row[3]:6.2f}"
            f"   ({_percent(row[3], row[2])})"
        )
    guessed = [name for name, share in found.informed.items() if share < 0.5]
    if guessed:
        print(f"hardly determined by this log, and near their nominal values: {', '.join(guessed)}")
    found.parameters.save(out)
    print(f"parameters: {out} (load them with +task.env.arm_parameters={out})")
    return 0


def _percent(after: float, before: float) -> str:
    return f"{after / before:.0%} of nominal" if before > 0 and math.isfinite(after) else "-"
