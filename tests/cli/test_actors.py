"""`online.mode=actors`: the online stage of a prepared run on rollout actors that start and end with it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from robot_rl.agents.algorithms import AlgorithmConfig, make_agent
from robot_rl.agents.policy import ActorPolicy, PolicyConfig
from robot_rl.cli.config import build, resolve
from robot_rl.cli.context import Context
from robot_rl.cli.main import EXIT_USER_ERROR, main
from robot_rl.cli.recordings import demos, policy_path
from robot_rl.cli.sections import OfflineConfig, OnlineStageConfig
from robot_rl.data.store import EpisodeStore
from robot_rl.trainers import actors

SMALL = [
    "preset=smoke",
    "reward=oracle",
    "collect={demos: 2, policy: 0, perturbed: 0, random: 0, refined: 0, num_envs: 2, workers: 0}",
    "evaluation.episodes=2",
    "online.practice={episodes: 12, episodes_per_update: 4, warmup_episodes: 4}",
    "online.mode=actors",
    "loop={checkpoint_every_s: 0, log_every_s: 0}",
    "threads=1",
]


def prepared(run: Path, overrides: list[str]) -> Path:
    """A run whose first five stages are done, by an untrained policy."""
    context = Context.open({"run": str(run)}, overrides)
    episode = demos(context)[0]
    config = dataclasses.replace(
        context.section("policy", PolicyConfig), instruction=episode.metadata.instruction
    )
    policy = ActorPolicy(config)
    policy.save(policy_path(context, "offline"), context.policy_metadata(episode))
    algorithm, offline = (
        context.section("algorithm", AlgorithmConfig),
        context.section("offline", OfflineConfig),
    )
    agent = make_agent(algorithm.offline, policy, offline.learner.sac, offline.learner, algorithm)
    agent.save_critics(context.run.stage_dir("offline") / "critic", {"task": context.task})
    for stage in ("reward", "offline"):
        done = {"success": None, "policy": "offline", "metrics": {}, "wall_s": 0}
        context.run.mark_done(stage, done)
    context.run.close()
    return run


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@pytest.mark.parametrize(
    "overrides",
    [[], ["task=widowx/drawer_open", "practice=reset_free", "online.reset_free={stuck_after: 2}"]],
    ids=["with_resets", "reset_free"],
)
def test_the_online_stage_runs_on_actors(overrides: list[str], tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="needs Ray: pip install -e '.[cluster]'")
    run = prepared(tmp_path / "run", [*SMALL, *overrides])
    assert main(["train", "stage=online", f"run={run}", *SMALL, *overrides]) == 0
    assert not ray.is_initialized()
    store = EpisodeStore(run / "data/online")
    extras = [episode.metadata.extra for episode in store]
    assert sorted(extra["practice"] for extra in extras) == list(range(12))
    assert {extra["actor"] for extra in extras} == {0, 1}
    assert all(extra["practice"] // 4 - extra["weights"] in (0, 1) for extra in extras)
    logged = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rounds = [line for line in logged if line["stage"] == "online"]
    assert [line["update"] for line in rounds] == [1, 2, 3]
    assert max(line["staleness"] for line in rounds) == 1
    done = json.loads((run / "stages/online/done.json").read_text())
    assert done["metrics"]["env_steps"] == sum(map(len, store))
    ActorPolicy.load(run / "stages/online/policy")
    if overrides:
        assert {episode.metadata.instruction for episode in store} <= {"open the drawer", "close the drawer"}
        assert done["metrics"]["forward_trials"] + done["metrics"]["backward_trials"] == 12
        assert done["metrics"]["manual_resets"] > 0
        rest = json.loads((run / "data/online/actor-0.json").read_text())
        assert len(rest["state"]["scenes"]) == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["online.mode=apart"], "Valid: actors, synchronous"),
        (["online.mode=actors", "online.actors.number=5"], "expected a multiple of it"),
        (
            ["online.mode=actors", "online.person=keys", "online.agent.offline_ratio=0.5"],
            "expected mode=synchronous",
        ),
        (
            ["online.mode=actors", "agent=rlpd", "algorithm.random_steps=9"],
            "random_steps=9 with online.mode=actors",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(
    overrides: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert (
        main(["train", "stage=bc", f"run={tmp_path / 'run'}", "preset=smoke", *overrides]) == EXIT_USER_ERROR
    )
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_without_ray_the_extra_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actors, "find_spec", lambda name: None)
    words = ["pipeline", f"run={tmp_path / 'run'}", "preset=smoke", "online.mode=actors"]
    assert main(words) == EXIT_USER_ERROR
    assert "ray is not installed: run `pip install robot-rl[cluster]`" in capsys.readouterr().err


def test_the_cluster_preset_practises_on_actors_of_a_cluster() -> None:
    online = build(OnlineStageConfig, resolve(["preset=cluster"]).online, "online")
    assert (online.mode, online.actors.address, online.actors.number) == ("actors", "auto", 8)
    assert build(OnlineStageConfig, resolve([]).online, "online").mode == "synchronous"
