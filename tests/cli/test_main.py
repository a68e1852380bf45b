"""The command line: help, and every mistake answered in one line that names the remedy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from robot_rl.agents.policy import ActorPolicy, PolicyConfig
from robot_rl.cli.catalogue import VERBS
from robot_rl.cli.config import build, expand_sweep, groups, resolve
from robot_rl.cli.main import EXIT_USER_ERROR, main
from robot_rl.cli.sections import SECTIONS, CollectConfig, OfflineConfig, OnlineStageConfig, SafetyConfig
from robot_rl.cli.simulation import Simulation
from robot_rl.cli.verbs import actor, evaluated
from robot_rl.data.artifact import MANIFEST, save_artifact
from robot_rl.data.store import EpisodeStore
from robot_rl.errors import ConfigError, DataError
from robot_rl.safety import ActionGuardConfig, GuardConfig
from robot_rl.trainers.bundle import export_bundle
from sim.tasks import TASKS
from tests.data.make import episode


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_examples(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"robot-rl {verb}" in text.split("examples:")[1]
    if VERBS[verb].configured:
        assert "preset=" in text
        assert "widowx/push" in text


def test_the_overview_lists_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(verb in text for verb in VERBS)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["pipelin"], "did you mean pipeline"),
        (["pipeline", "task=widowx/pusj"], "did you mean widowx/push"),
        (["pipeline", "preset=lapto"], "did you mean laptop"),
        (["pipeline", "bc.update=3"], "did you mean bc.updates"),
        (["pipeline", "bc.updates=many"], "bc.updates='many' is of type str; expected int"),
        (["pipeline", "bc.ema=2"], "expected 0 <= ema < 1"),
        (["pipeline", "policy.hidden=64"], "policy.hidden=64; expected a list"),
        (["pipeline", "policy.image_shape=64"], "policy.image_shape=64; expected a list of 2"),
        (["pipeline", "policy.family=[1,2,3]"], "policy.family=[1, 2, 3]; expected a list of 2"),
        (["pipeline", "world_model.model.channels=3"], "world_model.model.channels=3; expected a list"),
        (["pipeline", "offline.learner.sac.value_range=[-1]"], "value_range=[-1]; expected a list of 2"),
        (["pipeline", "task.env=5"], "task.env=5; expected keys and values"),
        (["pipeline", "bc=5"], "bc=5; expected its keys and values"),
        (["pipeline", "seed=abc"], "seed='abc'; expected a whole number"),
        (["pipeline", "seed=100"], "seed=100; expected a whole number, 0 to 99"),
        (["pipeline", "seed=-1"], "seed=-1; expected a whole number, 0 to 99"),
        (["pipeline", "threads=-1"], "threads=-1; expected a whole number, at least 0"),
        (["pipeline", f"run={__file__}"], "test_main.py is no directory"),
        (["pipeline", f"run={__file__}/x"], "Not a directory; check path and rights"),
        (["pipeline", "nonsense"], "unknown argument of pipeline 'nonsense'"),
        (["pipeline", "--verbose"], "unknown option '--verbose'"),
        (["train"], "train needs stage="),
        (["train", "stage=offlin"], "did you mean offline"),
        (["train", "stage=online", "dataset=store:x"], "dataset= feeds stage=bc or stage=world_model"),
        (["train", "stage=bc", "dataset=rlds:missing"], "missing"),
        (["train", "stage=bc", "dataset=lerobt:x"], "unknown dataset format 'lerobt'"),
        (["pipeline", "resume=nowhere"], "nowhere is not a run directory"),
        (["eval"], "eval needs checkpoint="),
        (["eval", "checkpoint=nowhere"], "no artifact at nowhere: check the path"),
        (["eval", "checkpoint=expert", "episodes=-3"], "episodes='-3'; expected a whole number"),
        (["replay", "dataset=nowhere"], "nowhere"),
        (["report", "run=nowhere"], "nowhere is not a run directory"),
        (["bringup", "bundle=nowhere"], "nowhere"),
        (["pipeline", "task=metaworld/drawer-opn-v3"], "drawer-open-v3"),
    ],
)
def test_mistakes_get_one_line_and_status_2(
    words: list[str],
    expected: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "metaworld" in "".join(words):
        pytest.importorskip("metaworld", reason="Meta-World is not installed")
    if words[0] == "bringup":
        pytest.importorskip("rclpy", reason="rclpy is not installed")
    monkeypatch.chdir(tmp_path)
    assert main(words) == EXIT_USER_ERROR
    message = capsys.readouterr().err
    assert expected in message
    assert message.startswith("robot-rl: ")
    assert message.count("\n") == 1
    assert not list(tmp_path.glob("runs/*")), "a refused command must leave nothing behind"


@pytest.mark.parametrize("words", [["eval"], ["replay", "dataset=store"]])
def test_a_checkpoint_whose_manifest_is_cut_gets_one_line(
    words: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    EpisodeStore("store", create=True).append(episode(0))
    save_artifact("policy", "policy", {}, {"task": "widowx/push"})
    manifest = tmp_path / "policy" / MANIFEST
    manifest.write_bytes(manifest.read_bytes()[:40])
    assert main([*words, "checkpoint=policy"]) == EXIT_USER_ERROR
    message = capsys.readouterr().err
    assert "manifest.json cannot be read" in message
    assert message.count("\n") == 1


def test_every_preset_task_and_section_builds() -> None:
    for preset in groups()["preset"]:
        for task in ("widowx/push", "widowx/reach", "widowx/pick_place", "metaworld/drawer-open-v3"):
            config = resolve([f"preset={preset}", f"task={task}"])
            for name, kind in SECTIONS.items():
                build(kind, config[name], name)
            assert config.task.name == task


def test_demonstrations_have_the_noise_of_their_task() -> None:
    for task, noise in (("widowx/push", 0.5), ("widowx/reach", 0.2), ("widowx/pick_place", 0.2)):
        assert TASKS[task.removeprefix("widowx/")].demo_noise == noise
        assert resolve([f"task={task}"]).task.demo_noise == noise
        assert resolve(["task.demo_noise=0.1", f"task={task}"]).task.demo_noise == 0.1
    assert resolve([]).task.name == "widowx/push"
    assert resolve([]).task.demo_noise == 0.5
    assert resolve(["task=metaworld/reach-v3"]).task.demo_noise == 0.5


def test_the_replays_hold_all_that_any_task_records() -> None:
    collect = CollectConfig()
    episodes = collect.demos + collect.policy + collect.perturbed + collect.random + collect.refined
    most = max(episodes * (2 if task.pair else 1) * task.max_steps for task in TASKS.values())
    assert most <= OfflineConfig().replay.capacity
    assert most <= OnlineStageConfig().agent.replay.capacity


def test_another_arm_has_its_own_limits() -> None:
    simulation = Simulation(resolve(["robot=widowx_ai", "task=widowx/reach", "task.env.cameras=[]"]))
    assert simulation.spec.robot == "widowx_ai"
    guard_filter = simulation.command_filter()
    assert guard_filter is not None
    assert guard_filter().guard.config == GuardConfig.widowx_ai()
    with pytest.raises(ConfigError, match="did you mean widowx_ai"):
        resolve(["robot=widowx_a1"])


def test_a_bundle_is_evaluated_on_its_own_arm_within_its_own_limits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = GuardConfig.widowx_ai(max_velocity=(0.01,) * 7)
    ActorPolicy(PolicyConfig(7, 7, image_shape=None, hidden=(4,), seed=1)).save(tmp_path / "policy", {})
    bundle = str(tmp_path / "slow")
    facts = {"task": "widowx/reach", "robot": "widowx_ai", "instruction": "reach", "guard": limits}
    export_bundle(tmp_path / "policy", bundle, **facts, action_guard=ActionGuardConfig(0.5))
    quick = ["collect.num_envs=1", "collect.workers=0", "task.env.cameras=[]"]
    simulation = evaluated(bundle, quick)
    assert (simulation.task, simulation.spec.robot) == ("widowx/reach", "widowx_ai")
    guard_filter = simulation.command_filter()
    assert guard_filter is not None
    assert guard_filter().guard.config == limits
    env = simulation.vector_env(1)
    assert env.guard.config == ActionGuardConfig(0.5)
    env.close()
    result = tmp_path / "result.json"
    words = ["eval", f"checkpoint={bundle}", "episodes=1", "task.env.max_steps=5", *quick]
    assert main([*words, f"json={result}"]) == 0
    assert json.loads(result.read_text())["episodes"]["curtailed"] == [5]
    for contrary, expected in {
        "robot=widowx_250s": "robot=widowx_250s, and the bundle is for widowx_ai",
        "safety=guarded": "safety= differs from the limits in the bundle",
        "safety.action.max_change=1": "safety= differs from the limits in the bundle",
        "task=widowx/push": "widowx/push",
    }.items():
        assert main([*words, contrary]) == EXIT_USER_ERROR
        assert expected in capsys.readouterr().err
    other = Simulation(resolve(["task=widowx/reach", *quick]))
    env = other.vector_env(1)
    with pytest.raises(DataError, match="robot 'widowx_ai'; expected 'widowx_250s'"):
        actor(bundle, other, env)
    env.close()


def test_the_limits_of_an_ordinary_bundle_may_be_said_once_more(tmp_path: Path) -> None:
    ActorPolicy(PolicyConfig(7, 7, image_shape=None, hidden=(4,))).save(tmp_path / "policy", {})
    for said in ("guarded", "energy_bounded"):
        safety = build(SafetyConfig, resolve([f"safety={said}"]).safety, "safety")
        guard = safety.guard("widowx_250s")
        facts = {"task": "widowx/reach", "robot": "widowx_250s", "instruction": "reach", "guard": guard}
        export_bundle(tmp_path / "policy", tmp_path / said, **facts)
        simulation = evaluated(str(tmp_path / said), [f"safety={said}", "task.env.cameras=[]"])
        guard_filter = simulation.command_filter()
        assert guard_filter is not None
        assert guard_filter().guard.config == guard


def test_a_sweep_is_every_combination() -> None:
    assert expand_sweep(["seed=0,1", "preset=smoke", "bc.lr=0.001,0.0001"]) == [
        ["seed=0", "preset=smoke", "bc.lr=0.001"],
        ["seed=0", "preset=smoke", "bc.lr=0.0001"],
        ["seed=1", "preset=smoke", "bc.lr=0.001"],
        ["seed=1", "preset=smoke", "bc.lr=0.0001"],
    ]
    with pytest.raises(ConfigError, match="cannot read"):
        expand_sweep(["seed=[1,"])


def test_collect_eval_and_replay_of_the_expert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = tmp_path / "demos"
    quick = ["collect.num_envs=2", "collect.workers=0"]
    assert main(["collect", f"out={store}", "episodes=2", "noise=0", "task=widowx/reach", *quick]) == 0
    assert "2 episodes" in capsys.readouterr().out
    result = tmp_path / "result.json"
    assert (
        main(["eval", "checkpoint=expert", "task=widowx/reach", "episodes=2", f"json={result}", *quick]) == 0
    )
    assert json.loads(result.read_text())["success"]["mean"] == 1
    assert main(["replay", f"dataset={store}", "episode=1", f"out={tmp_path / 'replay'}", *quick]) == 0
    text = capsys.readouterr().out
    assert "drift 0.00 mm mean" in text, "the same seed and actions must give the same motion"
    assert (tmp_path / "replay" / "episode_1.mp4").exists()
    (damaged, *_) = sorted(store.glob("*.safetensors"))
    content = bytearray(damaged.read_bytes())
    content[-10] ^= 1
    damaged.write_bytes(content)
    assert main(["replay", f"dataset={store}"]) == EXIT_USER_ERROR
    assert damaged.name in capsys.readouterr().err
    shutil.rmtree(store)
