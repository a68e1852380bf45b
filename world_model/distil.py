"""Consistency distillation: a world model of several Euler steps becomes one of a single step.

Song et al., "Consistency Models" (arXiv 2303.01469), algorithm 2, on EDM's preconditioning, which holds the
boundary condition D(x; 0) = x by itself.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from robot_rl.data.episode import Episode
from robot_rl.errors import ConfigError
from world_model.config import WorldModelLearnerConfig
from world_model.denoiser import sigma_schedule, to_pixels
from world_model.model import WorldModel
from world_model.walk import Walk
from world_model.windows import FrameTable

LEVELS = 18
"""Noise levels between which the student is held to one answer."""


class ConsistencyDistiller:
    """Distils the first member of `teacher` on real windows. A `robot_rl.trainers.protocols.Learner`.

    L = E |D_s(x_{n+1}; sigma_{n+1}) - D_ema(x_n; sigma_n)|^2, with x_{n+1} a noised frame and x_n one Euler
    step of the teacher from it; at the lowest level the answer is the frame itself.

    Args:
        teacher: a trained model of several steps and one member; it is not changed.
        config: `distil_updates`, batch, learning rate, `ema`.

    Raises:
        ConfigError: a teacher of one step or several members, or that starts from no noise.
    """

    def __init__(
        self, teacher: WorldModel, episodes: Sequence[Episode], config: WorldModelLearnerConfig
    ) -> None:
        if teacher.config.steps < 2 or teacher.config.members > 1:
            raise ConfigError(
                f"world model of {teacher.config.steps} steps and {teacher.config.members} members to "
                "distil; expected at least 2 steps and 1 member"
            )
        if teacher.config.initial_noise == 0:
            raise ConfigError(
                "world model with initial_noise=0.0 to distil; expected above 0: the student learns from "
                "noised frames, and would be asked to begin with a blank one"
            )
        teacher.spec.check(episodes)
        self.config, self.total_updates, self.updates = config, config.distil_updates, 0
        self.teacher = teacher.eval().requires_grad_(False)
        sizes = dataclasses.replace(teacher.config, steps=1)
        self.averaged = WorldModel(teacher.spec, sizes).to(teacher.device)
        self.averaged.load_state_dict(teacher.state_dict())
        self.averaged.eval().requires_grad_(False)
        self.student = copy.deepcopy(teacher.denoiser).requires_grad_(True)
        self.optimiser = torch.optim.AdamW(self.student.parameters(), config.learning_rate, fused=True)
        table = FrameTable(episodes, teacher.spec.camera, teacher.embed).to(teacher.device)
        self.walk = Walk(table, config.batch_size, sizes.history, config.seed)
        schedule = sigma_schedule(LEVELS, sizes.sigma_min, sizes.sigma_max, sizes.rho)
        self.levels = schedule[:-1].flip(0).to(teacher.device)  # rising, without 0

    @property
    def model(self) -> WorldModel:
        """The student's averaged denoiser with the teacher's heads, frozen; it takes one step."""
        return self.averaged

    def update(self) -> dict[str, float]:
        """One gradient step, on real windows."""
        self.walk.advance(0.0)
        loss = self._loss()
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.student.parameters(), self.config.gradient_clip)
        self.optimiser.step()
        self.updates += 1
        rate = 1 - min(self.config.ema, (1 + self.updates) / (10 + self.updates))
        with torch.no_grad():
            torch._foreach_lerp_(
                list[Tensor](self.averaged.denoiser.parameters()),
                list[Tensor](self.student.parameters()),
                rate,
            )
        return {"consistency_loss": loss.item()}

    def _loss(self) -> Tensor:
        walk, model, generator = self.walk, self.teacher, self.walk.generator
        table, device = walk.table, generator.device
        with torch.no_grad(), model.autocast():
            history = to_pixels(walk.history)
            action = table.actions[walk.cursor]
            following = model.predict_state(history, walk.state, walk.previous, action)
            encoded = model.encode_action(action)
            condition = model.condition(walk.state, encoded, following, table.told(walk.cursor))
            past = model.codec.encode(history).float()
            clean = model.codec.encode(to_pixels(table.frames[walk.cursor + 1])).float()
            clean = model.denoiser.encode(clean, past[:, -1])
            n = torch.randint(len(self.levels) - 1, (walk.batch,), generator=generator, device=device)
            low, high = self.levels[n], self.levels[n + 1]
            wide, narrow = high[:, None, None, None], low[:, None, None, None]
            noise = torch.randn(clean.shape, generator=generator, device=device)
            noisy = clean + wide * noise
            # x_n = x_{n+1} + (sigma_n - sigma_{n+1}) (x_{n+1} - D(x_{n+1})) / sigma_{n+1}
            slope = (noisy - model.denoiser.denoise(noisy, high, past, condition)) / wide
            answer = self.averaged.denoiser.denoise(noisy + (narrow - wide) * slope, low, past, condition)
            answer = torch.where((n == 0)[:, None, None, None], clean, answer)
        with model.autocast():
            given = self.student.denoise(noisy, high, past, condition)
        return (given - answer).square().mean()

    def state_dict(self) -> dict[str, Any]:
        return {
            "student": self.student.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "walk": self.walk.state_dict(),
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.student.load_state_dict(state["student"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.walk.load_state_dict(state["walk"])
        self.updates = int(state["updates"])
