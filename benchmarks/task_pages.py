"""The tasks on paper: docs/tasks.md, and a sheet of pictures for each task in docs/images/tasks/.

`python -m benchmarks.task_pages` writes the page from the tasks themselves and the figures in
benchmarks/results/tasks.json; `--sheets all` (or names) draws the pictures anew.
"""

from __future__ import annotations

import argparse
import inspect
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from benchmarks.check_tasks import EPISODES as CHECK_EPISODES
from benchmarks.tasks import ALTERNATIONS, EPISODES, make
from robot_rl.data import schema
from sim.registry import gymnasium_id
from sim.tasks import TASKS
from sim.tasks.base import Task
from sim.tasks.bin import PRIOR_TASKS

ROOT = Path(__file__).resolve().parents[1]
PAGE, SHEETS = ROOT / "docs/tasks.md", ROOT / "docs/images/tasks"
RESULTS = ROOT / "benchmarks/results/tasks.json"
"""Of `benchmarks.tasks`."""
CHECKED = ROOT / "benchmarks/results/check_tasks.json"
"""Of `benchmarks.check_tasks`."""
TILE = 176
PRIOR_SHEET = "prior"

INTRODUCTION = """# The WidowX tasks

Written by `python -m benchmarks.task_pages`. Figures by
`python -m benchmarks.tasks --json benchmarks/results/tasks.json`: success of the scripted expert over
{episodes} held-out seeds, without noise and at the documented noise on its actions (`Task.hard_noise`:
standard deviation, actions in [-1, 1]; chosen on validation seeds), with the mean number of steps; for pairs
also the successes in a row on one scene that is never reset, {alternations} episodes, {laps} times there and
back. Success is judged on the simulator's state. An empty cell has not been measured.

- `env.reset(options={{"keep_scene": True, "task": "widowx/pot_lid_off"}})` goes on in the scene as it
  is, with that task's instruction, success, reward and expert; with `sim.ParallelVectorEnv` for the
  members of `reset_mask`.
- `env.reset(options={{"near_miss": "askew"}})` starts from a state at rest that looks like success and
  is not.
- `Task.instructions` holds the wordings; the first is the one in `info["instruction"]`.

A sheet shows the start, the middle and the end of an expert's episode, then the near misses.
"""


def tiles(name: str, near_misses: bool = True) -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
    """Labelled pictures (TILE, TILE, 3) of a task: an expert's episode, then one of each near miss."""
    env = make(name)
    seed = schema.SEED_HELD_OUT
    env.reset(seed=seed)
    pictures = [env.render(size=TILE)]
    ended = terminated = False
    while not ended:
        *_, terminated, truncated, _ = env.step(env.expert_action())
        ended = terminated or truncated
        pictures.append(env.render(size=TILE))
    yield "start", pictures[0]
    if near_misses:
        yield "middle", pictures[len(pictures) // 2]
    yield "success" if terminated else "time out", pictures[-1]
    for kind in env.task.near_misses if near_misses else ():
        env.reset(seed=seed, options={"near_miss": kind})
        yield f"not: {kind}", env.render(size=TILE)
    env.close()


def sheet(labelled: list[tuple[str, npt.NDArray[np.uint8]]], columns: int) -> Image.Image:
    """One picture of all tiles with their labels."""
    rows = -(-len(labelled) // columns)
    page = Image.new("RGB", (columns * TILE, rows * TILE), "white")
    draw = ImageDraw.Draw(page)
    for index, (label, picture) in enumerate(labelled):
        corner = (index % columns * TILE, index // columns * TILE)
        page.paste(Image.fromarray(picture), corner)
        draw.text((corner[0] + 4, corner[1] + TILE - 15), label, fill="black")
    return page


def draw_sheets(names: list[str]) -> None:
    """Write the sheets of the tasks `names`; the prior tasks share one."""
    SHEETS.mkdir(parents=True, exist_ok=True)
    for name in names:
        if name in PRIOR_TASKS:
            continue
        labelled = list(tiles(name))
        sheet(labelled, len(labelled)).save(SHEETS / f"{name}.jpg", quality=85)
    if set(names) & set(PRIOR_TASKS):
        things = [name for name in PRIOR_TASKS if name.endswith("_to_bin")]
        labelled = [
            (f"{name}: {label}", picture)
            for name in things
            for label, picture in tiles(name, near_misses=False)
        ]
        sheet(labelled, 4).save(SHEETS / f"{PRIOR_SHEET}.jpg", quality=85)


def figures() -> dict[tuple[str, str], float]:
    """(case, metric) -> value, of all full measurements."""
    parts = json.loads(RESULTS.read_text())["parts"].values() if RESULTS.exists() else ()
    return {
        (row["case"], row["metric"]): float(row["value"])
        for part in parts
        if part["episodes"] >= EPISODES
        for row in part["rows"]
    }


def measured(task: type[Task], rows: dict[tuple[str, str], float]) -> list[str]:
    """The figures of a task as cells: success without noise, with it, steps, in a row."""

    def cell(case: str, metric: str, form: str) -> str:
        return format(rows[case, metric], form) if (case, metric) in rows else ""

    first = min(task.name, task.pair) if task.pair else ""
    return [
        cell(f"{task.name}, noise 0", "success", ".2f"),
        f"{task.hard_noise:g}",
        cell(f"{task.name}, noise {task.hard_noise:g}", "success", ".2f"),
        cell(f"{task.name}, noise 0", "steps", ".1f"),
        cell(f"{first} and back", "episodes in a row", ".0f") if first else "",
    ]


def section(name: str) -> str:
    """Heading, instructions, pair, success and picture of one task."""
    task = TASKS[name]
    own = task.__doc__ or ""
    about = " ".join(inspect.cleandoc(own).split("\n\n")[0].split())
    pair = f" Undone by `{task.pair}`." if task.pair else ""
    wordings = "; ".join(f"“{text}”" for text in task.instructions)
    kinds = ", ".join(f"`{kind}`" for kind in task.near_misses)
    return (
        f"\n## `{task.name}`\n\n`{gymnasium_id(name)}`, at most {task.max_steps} steps.{pair} {about}\n\n"
        f"{wordings}\n\nNear misses: {kinds}.\n\n![{name}](images/tasks/{name}.jpg)\n"
    )


def checked() -> str:
    """What random episodes of every task showed."""
    if not CHECKED.exists():
        return ""
    tasks = json.loads(CHECKED.read_text())["tasks"]
    whole = sum(outcome["episodes"] >= CHECK_EPISODES for outcome in tasks.values())
    rest = [
        f"`widowx/{name}` {tasks[name]['episodes'] if name in tasks else 0}"
        for name in TASKS
        if name not in tasks or tasks[name]["episodes"] < CHECK_EPISODES
    ]
    faults = sum(len(outcome["faults"]) for outcome in tasks.values())
    deepest = max(tasks.values(), key=lambda outcome: outcome["deepest_mm"])
    return (
        f"\n## Random episodes\n\n`make check-tasks`: {CHECK_EPISODES} random episodes of each task, with "
        "every state looked at for numbers that are not finite, joints beyond their limits, motors beyond "
        "their efforts, and contacts deeper than 5 mm once all is at rest. "
        f"Done for {whole} of {len(TASKS)} tasks"
        + (f" (so far of the others: {', '.join(rest)})" if rest else "")
        + f", faults: {faults or 'none'}; deepest contact at rest {deepest['deepest_mm']:.1f} mm "
        f"({deepest['between']}).\n"
    )


def page() -> str:
    """The text of docs/tasks.md."""
    rows = figures()
    lines = [
        INTRODUCTION.format(episodes=EPISODES, alternations=ALTERNATIONS, laps=ALTERNATIONS // 2),
        f"| task | success | noise | success at that noise | steps | in a row of {ALTERNATIONS} |",
        "|---|---|---|---|---|---|",
        *(f"| {' | '.join([f'`{task.name}`', *measured(task, rows)])} |" for task in TASKS.values()),
    ]
    own = [section(name) for name in TASKS if name not in PRIOR_TASKS]
    prior = (
        "\n## The prior tasks\n\nTwenty tasks with ten other things for multi-task pre-training, as in "
        "RoboFuME (arXiv 2310.15145); `sim.tasks.bin.PRIOR_TASKS`. Each is defined like "
        "`widowx/weight_to_bin` and `widowx/weight_to_table`.\n\n"
        f"![prior tasks](images/tasks/{PRIOR_SHEET}.jpg)\n"
    )
    return "\n".join(lines) + "\n" + checked() + "".join(own) + prior


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.task_pages")
    parser.add_argument("--sheets", nargs="*", default=[], metavar="TASK", help="draw these; `all` for all")
    names = parser.parse_args().sheets
    draw_sheets(list(TASKS) if names == ["all"] else names)
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
