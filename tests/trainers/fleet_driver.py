"""python -m tests.trainers.fleet_driver RUN EPISODES: practise on two rollout actors, to be killed."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

import torch

from robot_rl.trainers.actors import ActorsConfig, connected
from robot_rl.trainers.loop import LoopConfig, train
from robot_rl.trainers.run import Run
from tests.trainers.fleet_world import learner


def main(path: Path, episodes: int) -> None:
    torch.set_num_threads(1)
    config = ActorsConfig(2)
    with connected(config) as ray:
        learning = learner(ray, path, config, episodes)
        with closing(learning.fleet):
            train(learning, Run(path), "online", LoopConfig(checkpoint_every_s=0.2, log_every_s=0.0))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
