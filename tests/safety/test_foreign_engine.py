"""The filter attacked from outside: an arm, an integrator and an energy ledger that share no code with it.

The arm is a chain of n hinges in a plane with a point mass at the end of each link and a rotor at each hinge.
With the links' angles p_i = q_1 + ... + q_i and A_ij = l_i l_j sum_{k >= max(i, j)} m_k its motion is

    sum_j A_ij cos(p_i - p_j) p_j'' = Q_i - sum_j A_ij sin(p_i - p_j) p_j'^2,    H = p''A cos p'/2 + rotors

integrated by Runge-Kutta. The spring's torque is held over a servo period, the damper acts at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from robot_rl.safety import PassivityConfig, PassivityFilter

Floats = npt.NDArray[np.float64]
PERIOD_S, SERVO_S = 0.02, 0.002


class Chain:
    """n links; torques act between a link and the one before it."""

    def __init__(self, joints: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        lengths, masses = rng.uniform(0.1, 0.3, joints), rng.uniform(0.2, 0.8, joints)
        outboard = masses[::-1].cumsum()[::-1]
        order = np.arange(joints)
        self.coupling = np.outer(lengths, lengths) * outboard[np.maximum.outer(order, order)]
        self.rotors = rng.uniform(0.02, 0.05, joints)
        # q = B p, and so Q = B' tau
        self.relative = np.eye(joints) - np.eye(joints, k=-1)
        self.q, self.v = rng.uniform(-1, 1, joints), np.zeros(joints)

    def mass(self, q: Floats) -> tuple[Floats, Floats]:
        """Inertia (n, n) in the links' angles, and their differences."""
        angles = q.cumsum()
        turn = angles[:, None] - angles[None]
        rotors = self.relative.T @ (self.rotors[:, None] * self.relative)
        return self.coupling * np.cos(turn) + rotors, turn

    def kinetic(self) -> float:
        speed = self.v.cumsum()
        return 0.5 * float(speed @ self.mass(self.q)[0] @ speed)

    def _acceleration(self, q: Floats, v: Floats, pull: Floats, damping: Floats) -> Floats:
        mass, turn = self.mass(q)
        speed = v.cumsum()
        force = self.relative.T @ (pull - damping * v) - (self.coupling * np.sin(turn)) @ speed**2
        return self.relative @ np.linalg.solve(mass, force)

    def advance(self, setpoint: Floats, stiffness: Floats, damping: Floats) -> None:
        """One period of the filter."""
        for _ in range(round(PERIOD_S / SERVO_S)):
            pull = stiffness * (setpoint - self.q)  # sampled, and held
            h, q, v = SERVO_S, self.q, self.v
            a1 = self._acceleration(q, v, pull, damping)
            v2 = v + h / 2 * a1
            a2 = self._acceleration(q + h / 2 * v, v2, pull, damping)
            v3 = v + h / 2 * a2
            a3 = self._acceleration(q + h / 2 * v2, v3, pull, damping)
            v4 = v + h * a3
            a4 = self._acceleration(q + h * v3, v4, pull, damping)
            self.q = q + h / 6 * (v + 2 * v2 + 2 * v3 + v4)
            self.v = v + h / 6 * (a1 + 2 * a2 + 2 * a3 + a4)


Attack = Callable[[np.random.Generator, int, Floats, Floats], tuple[Floats, float]]
"""(generator, step, position, velocity) -> setpoint, share of the greatest stiffness."""


def noise(rng: np.random.Generator, k: int, q: Floats, v: Floats) -> tuple[Floats, float]:
    return q + rng.normal(0, 0.3, len(q)), float(rng.uniform(0.05, 1))


def pump(rng: np.random.Generator, k: int, q: Floats, v: Floats) -> tuple[Floats, float]:
    """Always pulled the way it moves; at times soft and slack, so that the tank fills."""
    return q + 0.3 * np.sign(v + rng.normal(0, 0.02, len(q))) * (k % 60 < 45), 1.0 if k % 7 else 0.1


def ledger(
    joints: int, attack: Attack, filtered: bool, steps: int = 150
) -> tuple[float, float, float, float]:
    """Largest rise of S in a step, most energy in arm and springs, least and most in the tank [J]."""
    chain, rng = Chain(joints, seed=joints), np.random.default_rng(7)
    stiffness, damping = np.full(joints, 30.0), np.full(joints, 0.6)
    f = PassivityFilter(PassivityConfig(tank_max_j=1.0, period_s=PERIOD_S, servo_period_s=SERVO_S))
    f.reset(chain.q, chain.q, stiffness, damping)
    setpoint, k, tank = chain.q, stiffness, f.tank.level
    before, worst, most, levels = math.inf, -math.inf, 0.0, [tank]
    for step in range(150):
        asked, share = attack(rng, step, chain.q, chain.v)
        d = damping * rng.uniform(0, 1)
        if filtered:
            r = f.step(q=chain.q, setpoint=asked, stiffness=share * stiffness, damping=d)
            setpoint, k, d, tank = r.setpoint, r.stiffness, r.damping, r.tank
            levels.append(tank)
        else:
            setpoint, k = asked, share * stiffness
        held = chain.kinetic() + 0.5 * float(k @ (setpoint - chain.q) ** 2)
        most = max(most, held)
        if step:
            worst = max(worst, held + tank - before)
        before = held + tank
        chain.advance(setpoint, k, d)
    return worst, most, min(levels), max(levels)


@pytest.mark.parametrize("attack", [noise, pump])
@pytest.mark.parametrize("joints", [3, 5, 7])
def test_no_energy_comes_from_nowhere_and_without_the_filter_it_does(joints: int, attack: Attack) -> None:
    rise, most, low, high = ledger(joints, attack, filtered=True)
    assert rise <= 1e-6
    assert most <= 0.9 + 1e-6  # what the tank held above its floor, and no more
    assert 0.1 <= low < 0.5  # the attack did ask for all of it
    assert high <= 1.0
    rise, most, *_ = ledger(joints, attack, filtered=False)
    assert rise > 0.1
    assert most > 1.8


def test_the_engine_keeps_its_own_energy() -> None:
    """Without springs and dampers H is constant: what the ledger sees is not the integrator's."""
    chain = Chain(5, seed=1)
    chain.v = np.linspace(-2, 2, 5)
    start, nothing = chain.kinetic(), np.zeros(5)
    for _ in range(50):
        chain.advance(chain.q, nothing, nothing)
    assert chain.kinetic() == pytest.approx(start, abs=1e-6)
