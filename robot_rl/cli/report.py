"""report.html: everything a run has to show, in one file that opens offline."""

from __future__ import annotations

import base64
import json
import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from robot_rl.cli import figures
from robot_rl.data.artifact import atomic_write
from robot_rl.errors import DataError
from robot_rl.trainers.statistics import paired_difference

ORDER = ("bc", "world_model", "refine", "reward", "offline", "online")
TITLES = {
    "bc": "Behaviour cloning",
    "world_model": "World model",
    "refine": "Refinement in imagination",
    "reward": "Learned reward",
    "offline": "Offline RL",
    "online": "Online RL",
}
BASELINE = "bc"


def write_report(run_dir: Path) -> Path:
    """Write `run_dir/report.html` from what the run holds; whatever is missing is left out.

    Raises:
        DataError: `run_dir` is not a directory.
    """
    if not run_dir.is_dir():
        raise DataError(f"{run_dir} is not a run directory: give one that robot-rl pipeline made")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "points": _points, "number": _number, "duration": _duration}
    page = environment.get_template("report.html.j2").render(contents(run_dir))
    target = run_dir / "report.html"
    atomic_write(target, page.encode())
    return target


def contents(run_dir: Path) -> dict[str, Any]:
    """What the template shows, read from the run directory."""
    summary = _read_json(run_dir / "summary.json")
    record = _read_json(run_dir / "run.json")
    curves = _metrics_lines(run_dir / "metrics.jsonl")
    rows = _stage_rows(run_dir, summary.get("stages") or {})
    judged = [row for row in rows if row["success"] and row["own"]]
    safety = _read_json(run_dir / "stages" / "online" / "safety.json")
    reasons, steps = safety.get("reasons") or {}, int(safety.get("steps") or 0)
    command = record.get("command", "")
    return {
        "run": run_dir.resolve().name,
        "task": summary.get("task") or "unknown task",
        "preset": summary.get("preset") or "-",
        "seed": summary.get("seed", "-"),
        "evaluated_on": str(summary.get("evaluated_on", "held_out")).replace("_", "-"),
        "record": record,
        "command": command if isinstance(command, str) else shlex.join(command),
        "rows": rows,
        "first": judged[0] if judged else None,
        "last": judged[-1] if len(judged) > 1 else None,
        "wall_s": sum(row["wall_s"] or 0.0 for row in rows),
        "success_chart": figures.success_chart(
            [
                {"name": row["name"]} | {key: row["success"][key] for key in ("mean", "low", "high")}
                for row in judged
            ]
        )
        if judged
        else None,
        "curves": {
            row: chart for row in _in_order(curves) if (chart := figures.learning_curves(row, curves[row]))
        },
        "videos": _policy_videos(run_dir),
        "world_model_video": _video(run_dir / "videos" / "world_model.mp4"),
        "imagined_videos": [
            {"title": f"Episode {file.stem.removeprefix('imagine_')}", "video": _video(file)}
            for file in sorted((run_dir / "videos").glob("imagine_*.mp4"))
        ],
        "reward_chart": figures.reward_chart(_read_json(run_dir / "stages" / "reward" / "curves.json")),
        "safety": {
            "steps": steps,
            "total": sum(reasons.values()),
            "chart": figures.safety_chart(reasons, steps),
        }
        if steps
        else None,
        "config": _read_text(run_dir / "config.yaml"),
        "titles": TITLES,
    }


def _stage_rows(run_dir: Path, stages: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row a finished stage: success, paired differences, length, time, metrics."""
    rows: list[dict[str, Any]] = []
    evaluations: dict[str, dict[str, Any]] = {}
    previous = None
    for name in _in_order(stages):
        stage = stages[name]
        evaluation = _read_json(run_dir / "stages" / name / "eval.json")
        success = stage.get("success")
        # A stage that makes no policy (world model, reward) shows the one that stood before it.
        own = stage.get("policy", name) == name
        row = {
            "name": name,
            "title": TITLES.get(name, name),
            "success": success,
            "own": own,
            "policy": stage.get("policy", name),
            "steps": None,
            "to_previous": None,
            "to_baseline": None,
            "wall_s": stage.get("wall_s"),
            "metrics": stage.get("metrics") or {},
        }
        if own and evaluation.get("success"):
            row["steps"] = (
                sum(evaluation["steps"]) / len(evaluation["steps"]) if evaluation.get("steps") else None
            )
            if previous is not None:
                row["to_previous"] = _paired(evaluation, evaluations[previous])
            if BASELINE in evaluations:
                row["to_baseline"] = _paired(evaluation, evaluations[BASELINE])
            evaluations[name] = evaluation
            previous = name
        rows.append(row)
    return rows


def _paired(evaluation: Mapping[str, Any], reference: Mapping[str, Any]) -> dict[str, float] | None:
    """Difference of success on the seeds that both were judged on, with its 95 % bootstrap interval."""
    of_seed = dict(zip(reference["seeds"], reference["success"], strict=False))
    pairs = [
        (float(success), float(of_seed[seed]))
        for seed, success in zip(evaluation["seeds"], evaluation["success"], strict=False)
        if seed in of_seed
    ]
    if not pairs:
        return None
    mean, low, high = paired_difference([a for a, _ in pairs], [b for _, b in pairs])
    return {"mean": mean, "low": low, "high": high, "n": len(pairs)}


def _policy_videos(run_dir: Path) -> list[dict[str, Any]]:
    """Per stage the embedded videos of a success and a failure."""
    found = []
    for stage in ORDER:
        videos = {
            label: video
            for label in ("success", "failure")
            if (video := _video(run_dir / "videos" / f"{stage}_{label}.mp4"))
        }
        if videos:
            found.append({"stage": stage, "title": TITLES[stage], "videos": videos})
    return found


def _in_order(names: Mapping[str, Any]) -> list[str]:
    """The pipeline's stages first, in its order, then any other."""
    return [name for name in ORDER if name in names] + sorted(set(names) - set(ORDER))


def _metrics_lines(path: Path) -> dict[str, list[dict[str, Any]]]:
    """metrics.jsonl by stage; a line that a kill cut short is skipped."""
    stages: dict[str, list[dict[str, Any]]] = {}
    for text in _read_text(path).splitlines():
        try:
            line = json.loads(text)
            stages.setdefault(line["stage"], []).append(line)
        except (json.JSONDecodeError, KeyError, TypeError):
            continue
    return stages


def _read_text(path: Path) -> str:
    return path.read_text(errors="replace") if path.is_file() else ""


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, empty if there is none.

    Raises:
        DataError: the file is damaged.
    """
    text = _read_text(path)
    if not text:
        return {}
    try:
        value: dict[str, Any] = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is damaged ({error}): delete it, and the report leaves it out") from error
    return value


def _video(path: Path) -> str | None:
    """The mp4 as a data URI, so that the page needs no other file."""
    if not path.is_file() or not path.stat().st_size:
        return None
    return "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _points(value: float) -> str:
    """A difference of rates in percentage points, with its sign."""
    return f"{100 * value:+.1f}".replace("-", "\u2212")


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if math.isnan(value):
        return "\u2013"
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:,.4g}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
