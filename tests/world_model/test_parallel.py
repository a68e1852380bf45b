"""Two processes learn what one learns."""

from __future__ import annotations

import dataclasses
import multiprocessing as mp
import os
import socket
from multiprocessing.queues import Queue
from queue import Empty

import pytest
import torch

from robot_rl.errors import ConfigError
from tests.world_model import toy
from world_model.learner import WorldModelLearner
from world_model.parallel import Group

UPDATES = 4


def _curve(group: Group, shards: int = 2) -> tuple[list[float], torch.Tensor]:
    config = dataclasses.replace(toy.tiny_config(total_updates=UPDATES), shards=shards)
    learner = WorldModelLearner(toy.episodes(0, 9), config, group=group)
    losses = [learner.update()["frame_loss"] for _ in range(UPDATES)]
    return losses, torch.cat([value.flatten() for value in learner.model.parameters()])


def _member(rank: int, port: int, answers: Queue[tuple[int, list[float], list[float]]]) -> None:
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": "2"
    }  # fmt: skip
    torch.set_num_threads(1)
    group = Group.join()
    try:
        losses, weights = _curve(group)
        answers.put((rank, losses, weights[:1000].tolist()))
        group.wait()
    finally:
        group.leave()


@pytest.mark.slow
def test_two_processes_give_the_loss_curve_of_one() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = mp.get_context("spawn")
    answers = context.Queue()
    members = [context.Process(target=_member, args=(rank, port, answers)) for rank in range(2)]
    for member in members:
        member.start()
    found: list[tuple[int, list[float], list[float]]] = []
    while len(found) < len(members):
        try:
            found.append(answers.get(timeout=1))
        except Empty:
            assert all(member.exitcode in (None, 0) for member in members)
    for member in members:
        member.join()
    losses, weights = _curve(Group())
    for _, theirs, those in found:
        assert theirs == pytest.approx(losses, rel=1e-4)
        assert those == pytest.approx(weights[:1000].tolist(), abs=2e-4)
    assert _curve(Group(), shards=1)[0] != pytest.approx(losses, rel=1e-4)


def test_shards_hold_every_episode_once_and_a_group_goes_on_from_saved_weights() -> None:
    config = dataclasses.replace(toy.tiny_config(total_updates=UPDATES), shards=2)
    learner = WorldModelLearner(toy.episodes(0, 9), config)
    whole = WorldModelLearner(toy.episodes(0, 9), toy.tiny_config())
    assert sum(len(walk.table.frames) for walk in learner.walks) == len(whole.walks[0].table.frames)
    assert [walk.batch for walk in learner.walks] == [4, 4]
    learner.update()
    state = learner.state_dict() | {"walks": []}  # as a group saves it
    other = WorldModelLearner(toy.episodes(0, 9), config)
    other.load_state_dict(state)
    assert other.updates == 1
    other.update()


def test_groups_that_cannot_be_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Group.join() == Group(0, 1)
    assert list(Group(1, 2).shards(4)) == [1, 3]
    with pytest.raises(ConfigError, match="shards is 3; expected a multiple of 2 processes"):
        Group(1, 2).shards(3)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="torchrun"):
        Group.join()
