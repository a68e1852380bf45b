"""Rollout actors and the learner apart: the same data, bounded staleness, both sides wait, both sides die."""

from __future__ import annotations

import ipaddress
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_rl.agents.policy import PolicyRunner
from robot_rl.data.episode import STEP_DTYPES, Episode
from robot_rl.data.store import EpisodeStore
from robot_rl.errors import ConfigError, DataError, RobotRLError
from robot_rl.trainers.actors import (
    ALONE,
    ActorsConfig,
    Post,
    RolloutActor,
    Ticket,
    connected,
    load,
    published,
)
from robot_rl.trainers.fleet import Fleet
from robot_rl.trainers.loop import LoopConfig, train
from robot_rl.trainers.online import OnlineConfig, OnlineLearner
from robot_rl.trainers.run import Run
from tests.trainers.fleet_world import (
    ARMS,
    BATCH,
    FIRST,
    Drift,
    Watched,
    agent,
    fleet,
    learner,
    origin,
    policy,
    until,
)

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A Ray cluster of two nodes with room for two actors each, on this machine alone."""
    for name, value in ALONE.items():
        os.environ.setdefault(name, value)
    pytest.importorskip("ray", reason="needs Ray: pip install -e '.[cluster]'")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    cluster.add_node(num_cpus=2)
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def ray(nodes: Any) -> Iterator[Any]:
    torch.set_num_threads(1)
    with connected(ActorsConfig(address=nodes.address)) as ray:
        yield ray


def children(pid: int) -> list[int]:
    """The processes that `pid` has started."""
    parents = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(file.parent.name)] = int(file.read_text().rsplit(")", 1)[1].split()[1])
    return [child for child, parent in parents.items() if parent == pid]


class Guest:
    """Somebody else's actor, who takes up room."""

    def is_here(self) -> bool:
        return True


def stored(folder: Path) -> list[Episode]:
    """The committed episodes by number."""
    episodes = EpisodeStore(folder / "online").load_all()
    return sorted(episodes, key=lambda episode: episode.metadata.extra["practice"])


def numbers(episodes: list[Episode]) -> list[int]:
    return [episode.metadata.extra["practice"] for episode in episodes]


def learned_again(episodes: list[Episode]) -> dict[str, Any]:
    """The weights that learning from stored episodes, batch by batch, leads to."""
    again = agent()
    for first in range(0, len(episodes), BATCH):
        batch = episodes[first : first + BATCH]
        for episode in batch:
            again.add_episode(episode)
        if first >= BATCH:  # the warm-up
            again.learn(sum(map(len, batch)))
    return again.policy.state_dict()


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def stays(made: Callable[[], int]) -> int:
    """How many there are, after time enough for more of them."""
    time.sleep(0.5)
    return made()


# ---- without processes


class NoRay:
    """Takes what is sent and brings nothing."""

    exceptions = SimpleNamespace(RayTaskError=KeyError, RayError=OSError)

    def put(self, value: Any) -> Any:
        return value

    def remote(self, kind: type) -> Any:
        send = SimpleNamespace(options=lambda **options: SimpleNamespace(remote=lambda *arguments: object()))
        actor = SimpleNamespace(practise=send)
        return SimpleNamespace(options=lambda **options: SimpleNamespace(remote=lambda *arguments: actor))


def an_episode(number: int, version: int = 0) -> Episode:
    post = Post(Drift(1), PolicyRunner(policy()), policy(), origin())
    (delivery,) = RolloutActor(0, lambda: post).practise(
        Ticket(range(number, number + 1), version, FIRST), published(policy())
    )
    return delivery.episode


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 3), st.integers(0, 3))
def test_no_order_of_events_breaks_the_bound_or_stops_the_practice(
    tmp_path_factory: pytest.TempPathFactory, seed: int, actors: int, staleness: int
) -> None:
    """Actors finish, or die with some episodes delivered, in any order; the learner learns when it can."""
    folder, chance = tmp_path_factory.mktemp("fleet"), np.random.default_rng(seed)
    batch, total = 2 * actors, 10 * actors
    practice, config = OnlineConfig(total, batch, batch), ActorsConfig(actors, staleness, max_deaths=10**6)
    at_work = Fleet(NoRay(), lambda: None, EpisodeStore(folder, create=True), config, practice, FIRST)  # type: ignore[arg-type,return-value]
    at_work._store = SimpleNamespace(append=lambda episode: 0, files=[Path("committed")])  # type: ignore[assignment]
    at_work.begin(0, 0, {})
    under_way: list[Ticket | None] = [None] * actors
    made_with: dict[int, int] = {}
    version = learned = 0
    learning = False
    for _ in range(100_000):
        if learned == total and not learning:
            return
        can_learn = learning or at_work._ready(min(batch, total - learned))
        for actor in range(actors):
            under_way[actor] = under_way[actor] or at_work._ticket()
        busy = [actor for actor in range(actors) if under_way[actor]]
        assert busy or can_learn, "nobody can go on"
        if can_learn and (not busy or chance.random() < 0.5):
            if learning:
                version += 1
                at_work.publish(version, {})
            else:
                taken = list(at_work._queue)[: min(batch, total - learned)]
                for number in taken:
                    del at_work._queue[number]
                at_work._taken += len(taken)
                at_work._learning = len(taken)
                assert taken == sorted(taken)
                assert all(0 <= version - made_with[number] <= staleness for number in taken)
                learned += len(taken)
            learning = not learning
            continue
        actor = int(chance.choice(busy))
        ticket = under_way[actor]
        assert ticket is not None
        assert not made_with.keys() & set(ticket.numbers)
        delivered = len(ticket.numbers) if chance.random() < 0.9 else int(chance.integers(2))
        for number in ticket.numbers[:delivered]:
            made_with[number] = ticket.version
            at_work._commit(number, None)  # type: ignore[arg-type]
        if delivered < len(ticket.numbers):
            hand = at_work._hands[actor]
            hand.ticket = ticket
            at_work._replace(hand, OSError("killed"))
        under_way[actor] = None
    raise AssertionError("the practice did not end")


def test_an_episode_is_written_down_once(tmp_path: Path) -> None:
    at_work = fleet(NoRay(), tmp_path, ActorsConfig(), 8)
    at_work.begin(0, 0, {})
    assert at_work._ticket() == Ticket(range(2), 0, FIRST)
    for number in (1, 1, 0, 1, 7):  # repeated, and never given out
        at_work._commit(number, an_episode(number))
    assert numbers(EpisodeStore(tmp_path / "online").load_all()) == [1, 0]
    with pytest.raises(DataError, match="holds 2 episodes; expected the 5"):
        fleet(NoRay(), tmp_path, ActorsConfig(), 8).begin(5, 2, {})
    EpisodeStore(tmp_path / "online").append(an_episode(1))
    with pytest.raises(DataError, match="number 1 of the practice"):
        fleet(NoRay(), tmp_path, ActorsConfig(), 8)


def test_practice_goes_on_after_what_is_learned_and_past_every_number(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path / "online", create=True)
    for number in (0, 1, 3, 2, 7, 5):  # in the order of their commits; 4 and 6 were under way, and are lost
        store.append(an_episode(number))
    at_work = fleet(NoRay(), tmp_path, ActorsConfig(max_staleness=0), 12)
    at_work.begin(4, 1, {})
    at_work._commit(3, an_episode(3))
    assert len(EpisodeStore(store.path)) == 6
    assert at_work._ticket() == Ticket(range(8, 10), 1, FIRST)
    assert at_work._ticket() is None
    for number in (9, 8):
        at_work._commit(number, an_episode(number, 1))
    assert numbers(at_work.take(BATCH)) == [5, 7, 8, 9]


def test_published_weights_are_a_copy_and_come_back_whole() -> None:
    one, other = policy(), policy()
    weights = published(one)
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.add_(1.0)
    assert equal({name: torch.as_tensor(value) for name, value in weights.items()}, dict(other.state_dict()))
    load(other, published(one))
    assert equal(dict(other.state_dict()), dict(one.state_dict()))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"number": 0}, "number=0"),
        ({"max_staleness": -1}, "max_staleness=-1; expected at least 0"),
        ({"max_silence_s": float("nan")}, "max_silence_s=nan"),
        ({"address": "somewhere"}, "address='somewhere'; expected HOST:PORT"),
    ],
)
def test_bad_settings_are_refused(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ActorsConfig(**bad)


# ---- on the cluster of two nodes


@pytest.mark.parametrize("number", [1, 2])
def test_taking_turns_equals_the_synchronous_practice(ray: Any, tmp_path: Path, number: int) -> None:
    found: list[Episode] = []
    whole = OnlineConfig(14, BATCH, BATCH, 1.0)
    alone = OnlineLearner(Drift(BATCH), agent(), origin(), whole, FIRST, found.append)
    apart = learner(ray, tmp_path, ActorsConfig(number, max_staleness=0), 14)
    assert apart.total_updates == alone.total_updates == 4
    with closing(apart.fleet):
        for _ in range(4):
            expected, metrics = alone.update(), apart.update()
            assert metrics.pop("staleness") == 0
            assert metrics == pytest.approx(expected, rel=1e-3, abs=1e-5)
    episodes = stored(tmp_path)
    assert len(episodes) == len(found) == 14
    for ours, theirs in zip(episodes, found, strict=True):
        assert ours.metadata.seed == theirs.metadata.seed
        for name in STEP_DTYPES:
            np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), atol=1e-5)
        np.testing.assert_allclose(ours.action, ours.action_requested / 2)
    if number == 1:  # the very same batches
        assert equal(apart.agent.policy.state_dict(), alone.agent.policy.state_dict())
        assert apart.interventions() == alone.interventions()


def test_staleness_stays_within_its_bound_and_both_nodes_practise(ray: Any, tmp_path: Path) -> None:
    apart = learner(ray, tmp_path, ActorsConfig(2, max_staleness=1), 32)
    held = Watched(tmp_path).hold(0)
    with closing(apart.fleet), ThreadPoolExecutor(1) as pool:
        rounds = pool.submit(lambda: [apart.update() for _ in range(8)])
        until(lambda: len(EpisodeStore(tmp_path / "online")))  # the other one's
        held.unlink()
        metrics = rounds.result()
    episodes = stored(tmp_path)
    assert numbers(episodes) == list(range(32))
    late = [index // BATCH - each.metadata.extra["weights"] for index, each in enumerate(episodes)]
    assert min(late) == 0
    assert max(late) == 1 == max(each["staleness"] for each in metrics)
    assert len({episode.metadata.source for episode in episodes}) == 2
    assert {episode.metadata.extra["actor"] for episode in episodes} == {0, 1}
    assert equal(apart.agent.policy.state_dict(), learned_again(episodes))
    assert not equal(apart.agent.policy.state_dict(), policy().state_dict())


def test_actors_wait_for_a_slow_learner(ray: Any, tmp_path: Path) -> None:
    at_work = fleet(ray, tmp_path, ActorsConfig(2, max_staleness=1), 40)
    store = EpisodeStore(tmp_path / "online")

    def made() -> int:
        store.refresh()
        return len(store)

    with closing(at_work):
        at_work.begin(0, 0, published(policy()))
        assert [each.metadata.seed for each in at_work.take(BATCH)] == [FIRST + i for i in range(BATCH)]
        until(lambda: made() == 2 * BATCH)
        assert stays(made) == 2 * BATCH
        at_work.publish(1, published(policy()))
        until(lambda: made() == 3 * BATCH)
        assert stays(made) == 3 * BATCH
    assert [each.metadata.extra["weights"] for each in stored(tmp_path)][2 * BATCH :] == [1] * BATCH


def test_the_learner_waits_for_a_slow_actor(ray: Any, tmp_path: Path) -> None:
    held = Watched(tmp_path).hold(0)
    at_work = fleet(ray, tmp_path, ActorsConfig(2, max_staleness=1), 40)
    with closing(at_work), ThreadPoolExecutor(1) as pool:
        at_work.begin(0, 0, published(policy()))
        batch = pool.submit(at_work.take, BATCH)
        Watched(tmp_path).process_at(0)
        until(lambda: len(EpisodeStore(tmp_path / "online")) == 2 * BATCH - ARMS)  # the other one's
        assert not batch.done()
        held.unlink()
        assert numbers(batch.result()) == list(range(BATCH))


def test_a_killed_actor_costs_what_it_had_under_way_and_nothing_else(ray: Any, tmp_path: Path) -> None:
    """Number 9 is under way while number 8, of the same ticket, is over."""
    world = Watched(tmp_path)
    held = world.hold(9)
    apart = learner(ray, tmp_path, ActorsConfig(2, max_staleness=1), 24)
    with closing(apart.fleet), ThreadPoolExecutor(1) as pool:
        rounds = pool.submit(lambda: [apart.update() for _ in range(6)])
        process = world.process_at(9)
        until(lambda: 8 in numbers(stored(tmp_path)))
        before = set(numbers(stored(tmp_path)))
        os.kill(process, signal.SIGKILL)
        held.unlink()
        assert len(rounds.result()) == 6
    episodes = stored(tmp_path)
    found = numbers(episodes)
    assert len(found) == len(set(found)) == 24
    assert before <= set(found)
    assert 9 not in found
    assert len({each.metadata.seed for each in episodes}) == 24
    assert equal(apart.agent.policy.state_dict(), learned_again(episodes))


def test_an_actor_that_hangs_is_replaced(ray: Any, tmp_path: Path) -> None:
    """It stops in the middle of an episode, for good."""
    world = Watched(tmp_path)
    world.hold(2)
    apart = learner(ray, tmp_path, ActorsConfig(2, max_silence_s=1.0), 12)
    with ThreadPoolExecutor(1) as pool, closing(apart.fleet):
        rounds = pool.submit(lambda: [apart.update() for _ in range(3)])
        world.process_at(2)
        assert len(rounds.result(timeout=120)) == 3
    found = numbers(stored(tmp_path))
    assert len(found) == 12
    assert 2 not in found


def test_an_actor_that_fails_or_keeps_dying_stops_the_run_in_one_line(ray: Any, tmp_path: Path) -> None:
    (tmp_path / "bad").touch()
    apart = learner(ray, tmp_path, ActorsConfig(1), 24)
    with closing(apart.fleet), pytest.raises(ConfigError, match=r"^a bad world; expected a good one$"):
        apart.update()
    (tmp_path / "bad").unlink()
    Watched(tmp_path).hold(0)
    apart = learner(ray, tmp_path, ActorsConfig(1, max_deaths=0), 24)
    with closing(apart.fleet), ThreadPoolExecutor(1) as pool:
        update = pool.submit(apart.update)
        os.kill(Watched(tmp_path).process_at(0), signal.SIGKILL)
        with pytest.raises(RobotRLError, match="rollout actor 0 died 1 times; expected at most max_deaths=0"):
            update.result()


def lives(process: Any) -> bool:
    """Whether the process still runs: it may end between any two questions about it."""
    psutil = pytest.importorskip("psutil")
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_a_killed_driver_leaves_no_process_and_its_run_goes_on(ray: Any, tmp_path: Path) -> None:
    psutil = pytest.importorskip("psutil")
    run = Run.create(tmp_path / "run", "", [])
    driver = subprocess.Popen([sys.executable, "-m", "tests.trainers.fleet_driver", str(run.path), "400"])
    state = run.path / "stages/online/state.pt"
    until(lambda: state.exists() and len(EpisodeStore(run.path / "online", create=True)) > 24)
    family = psutil.Process(driver.pid).children(recursive=True)
    heard = [
        each.laddr.ip for one in family for each in one.net_connections("inet") if each.status == "LISTEN"
    ]
    assert heard
    assert all(ipaddress.ip_address(each.removeprefix("::ffff:")).is_loopback for each in heard)
    driver.kill()
    driver.wait()
    until(lambda: not any(lives(one) for one in family))
    before = {file: file.read_bytes() for file in EpisodeStore(run.path / "online").files}
    learned = run.load_state("online")
    assert learned is not None
    assert 0 < learned["learner"]["episodes"] <= len(before) < 400
    total = -(-len(before) // BATCH) * BATCH + 8
    apart = learner(ray, run.path, ActorsConfig(2), total)
    with closing(apart.fleet):
        train(apart, run, "online", LoopConfig())
    episodes = stored(run.path)
    assert len(set(numbers(episodes))) == len(episodes) == total
    assert all(file.read_bytes() == content for file, content in before.items())
    assert equal(apart.agent.policy.state_dict(), learned_again(episodes))
    assert len(apart.agent.buffer) == sum(map(len, episodes))


def test_a_node_that_goes_down_is_survived(nodes: Any, ray: Any, tmp_path: Path) -> None:
    """The head has room for one actor, so the node that goes down has at least one, and takes it along."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    head = NodeAffinitySchedulingStrategy(nodes.head_node.node_id, soft=False)
    guest = ray.remote(Guest).options(num_cpus=1, scheduling_strategy=head).remote()
    assert ray.get(guest.is_here.remote())
    apart = learner(ray, tmp_path, ActorsConfig(2), 24)
    world = Watched(tmp_path)
    held = world.hold(0)
    with closing(apart.fleet), ThreadPoolExecutor(1) as pool:
        rounds = pool.submit(lambda: [apart.update() for _ in range(6)])
        world.process_at(0)  # both must have begun: an actor that was never made does not die
        until(lambda: len(EpisodeStore(tmp_path / "online")))
        node = next(iter(nodes.worker_nodes))
        actors = children(node.all_processes["raylet"][0].process.pid)
        nodes.remove_node(node, allow_graceful=False)
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in actors))  # they work on for a while
        ray.kill(guest)
        held.unlink()
        assert len(rounds.result()) == 6
        assert sum(hand.deaths for hand in apart.fleet._hands) >= 1
    episodes = stored(tmp_path)
    assert len(set(numbers(episodes))) == len(episodes) == 24
    assert equal(apart.agent.policy.state_dict(), learned_again(episodes))


def test_no_cluster_at_the_address_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    module = pytest.importorskip("ray")
    monkeypatch.setattr(module, "is_initialized", lambda: False)

    def refuse(**options: Any) -> None:
        raise ConnectionError("nobody there\nand more")

    monkeypatch.setattr(module, "init", refuse)
    with pytest.raises(ConfigError, match=r"no Ray cluster at address='127.0.0.1:1' \(nobody there\)"):
        with connected(ActorsConfig(address="127.0.0.1:1")):
            pass
