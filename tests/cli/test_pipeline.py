"""The whole pipeline, small: what a run directory holds, and that a killed run ends like an unkilled one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from robot_rl.cli.main import EXIT_USER_ERROR, main
from robot_rl.cli.stages import STAGES

SMALL = [
    "preset=smoke",
    "collect.num_envs=2",
    "evaluation.episodes=4",
    "loop.checkpoint_every_s=0",
    "loop.log_every_s=0",
    "threads=1",
]
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("pipeline")]


def start(*words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "robot_rl.cli.main", "pipeline", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[bytes]) -> str:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output.decode()
    return output.decode()


def kill_when(process: subprocess.Popen[bytes], sign: Path, number: int) -> None:
    """Send `number` to the run and all its workers as soon as the file `sign` is there."""
    for _ in range(6000):
        if sign.exists():
            break
        assert process.poll() is None, process.communicate()[0].decode()
        time.sleep(0.02)
    if number == signal.SIGKILL:
        os.killpg(process.pid, number)
    else:
        os.kill(process.pid, number)
    process.communicate(timeout=120)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("pipeline") / "whole"
    assert f"report: {run / 'report.html'}" in finish(start(f"run={run}", *SMALL))
    return run


def test_the_run_directory_holds_everything(whole: Path) -> None:
    summary = json.loads((whole / "summary.json").read_text())
    assert (summary["task"], summary["preset"], summary["seed"]) == ("widowx/push", "smoke", 0)
    assert list(summary["stages"]) == list(STAGES)
    for name, stage in summary["stages"].items():
        assert 0 <= stage["success"]["low"] <= stage["success"]["mean"] <= stage["success"]["high"] <= 1
        assert stage["success"]["n"] == 4
        assert stage["wall_s"] > 0
        assert stage["policy"] in STAGES, name
    assert {"psnr_h1", "copy_psnr_h1", "ssim_h1"} <= set(summary["stages"]["world_model"]["metrics"])
    assert {"auroc", "fpr", "recall"} <= set(summary["stages"]["reward"]["metrics"])
    for file in ("config.yaml", "run.json", "metrics.jsonl", "report.html", "videos/world_model.mp4"):
        assert (whole / file).exists(), file
    assert list((whole / "tensorboard").iterdir())
    logged = {json.loads(line)["stage"] for line in (whole / "metrics.jsonl").read_text().splitlines()}
    assert logged == set(STAGES)
    assert not list(whole.rglob("state.pt")), "a finished stage keeps no training state"


def test_killed_twice_and_interrupted_ends_like_unkilled(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "killed"
    kill_when(start(f"run={run}", *SMALL), run / "stages/world_model/state.pt", signal.SIGKILL)
    kill_when(start(f"resume={run}"), run / "stages/offline/state.pt", signal.SIGINT)
    kill_when(start(f"resume={run}"), run / "stages/online/state.pt", signal.SIGKILL)
    finish(start(f"resume={run}"))
    weights = sorted(file.relative_to(whole) for file in whole.rglob("stages/**/*.safetensors"))
    assert len(weights) >= 6
    for file in weights:
        assert (run / file).read_bytes() == (whole / file).read_bytes(), f"{file} differs after resuming"
    summaries = [json.loads((each / "summary.json").read_text())["stages"] for each in (whole, run)]
    assert [s["success"] for s in summaries[0].values()] == [s["success"] for s in summaries[1].values()]


def test_a_finished_run_is_not_run_again(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (whole / "metrics.jsonl").read_bytes()
    assert main(["pipeline", f"resume={whole}"]) == 0
    assert (whole / "metrics.jsonl").read_bytes() == before
    assert main(["pipeline", f"resume={whole}", "seed=3"]) == EXIT_USER_ERROR
    assert "remove seed=3" in capsys.readouterr().err


def test_a_policy_of_another_task_or_with_a_changed_byte_is_refused(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = whole / "stages/bc/policy"
    quick = ["episodes=1", "collect.num_envs=1", "collect.workers=0"]
    assert main(["eval", f"checkpoint={policy}", "task=widowx/reach", *quick]) == EXIT_USER_ERROR
    assert "widowx/push" in capsys.readouterr().err
    copy = tmp_path / "policy"
    copy.mkdir()
    for file in policy.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert main(["eval", f"checkpoint={copy}", *quick]) == EXIT_USER_ERROR
    assert "model.safetensors" in capsys.readouterr().err


def test_export_writes_a_bundle_that_evaluates(whole: Path, tmp_path: Path) -> None:
    bundle, result = tmp_path / "bundle", tmp_path / "result.json"
    assert main(["export", f"run={whole}", f"out={bundle}"]) == 0
    words = ["eval", f"checkpoint={bundle}", "episodes=2", f"json={result}"]
    assert main([*words, "collect.num_envs=2", "collect.workers=0"]) == 0
    held_out = json.loads((whole / "stages/online/eval.json").read_text())
    assert json.loads(result.read_text())["success"]["n"] == 2
    assert json.loads(result.read_text())["episodes"]["seeds"] == held_out["seeds"][:2]
