"""What every benchmark shares: the command line, the machine, the versions, the JSON and the table."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One figure: `metric` of `case` is `value` in `unit`."""

    case: str
    metric: str
    value: float
    unit: str


def machine() -> dict[str, Any]:
    """Processor, cores, memory and system: what a figure depends on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.partition(":")[2].strip()
            for line in cpuinfo.read_text().splitlines()
            if "model name" in line
        ]
        model = names[0] if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load = os.getloadavg()[0]
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "load_1min": round(load, 2),
        "mujoco_gl": os.environ.get("MUJOCO_GL", ""),
    }


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Installed version of each package, `absent` where there is none."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def interleaved_rates(
    cases: Mapping[str, Callable[[], object]], rounds: int, seconds: float, least: int = 3
) -> dict[str, list[float]]:
    """Calls per second of each case, in turns, so that a slow minute of the machine hits all alike.

    Args:
        cases: name -> one unit of work.
        rounds: turns each case gets.
        seconds: length of a turn [s].
        least: calls a turn, however long they take.

    Returns:
        name -> one rate a round [1/s].
    """
    rates: dict[str, list[float]] = {name: [] for name in cases}
    for work in cases.values():
        work()  # compilation and first-time allocations are not what is measured
    for _ in range(rounds):
        for name, work in cases.items():
            calls, start = 0, time.perf_counter()
            while (elapsed := time.perf_counter() - start) < seconds or calls < least:
                work()
                calls += 1
            rates[name].append(calls / elapsed if elapsed else 0.0)
    return rates


def ratio_rows(rates: dict[str, list[float]], of: str, metric: str = "ratio") -> list[Row]:
    """How many times faster `of` is than each other case: the median over rounds of paired ratios."""
    return [
        Row(f"{of} / {other}", metric, median(a / b for a, b in zip(rates[of], values, strict=True)), "x")
        for other, values in rates.items()
        if other != of
    ]


def run(
    benchmark: str,
    packages: Iterable[str],
    measure: Callable[[bool], list[Row]],
    arguments: list[str] | None = None,
    flags: Iterable[str] = (),
) -> None:
    """The command line `python -m benchmarks.NAME [--quick] [--json FILE]`.

    Args:
        benchmark: its name. packages: whose versions matter.
        measure: quick -> rows.
        arguments: of the command line, `sys.argv` by default.
        flags: further flags, `--NAME`, that are the benchmark's own to read.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{benchmark}")
    parser.add_argument("--quick", action="store_true", help="a rough figure in a fraction of the time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here instead of a table")
    for flag in flags:
        parser.add_argument(flag, action="store_true")
    given = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(given)
    host = machine()  # before the load of the measurement itself
    rows = measure(options.quick)
    result = {
        "benchmark": benchmark,
        "machine": host,
        "versions": versions(packages),
        "command": shlex.join(["python", "-m", f"benchmarks.{benchmark}", *given]),
        "rows": [asdict(row) for row in rows],
    }
    if options.json:
        write_json(options.json, result)
    else:
        show(f"{benchmark} on {host['cores']} x {host['cpu']}", rows)


def write_json(file: Path, result: object) -> None:
    """Write `result` whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(json.dumps(result, indent=2) + "\n")
    partial.replace(file)


def show(title: str, rows: Iterable[Row]) -> None:
    """Print the rows as a table."""
    table = Table("case", "metric", "value", "unit", title=title)
    for row in rows:
        table.add_row(row.case, row.metric, f"{row.value:,.4g}", row.unit)
    Console().print(table)
