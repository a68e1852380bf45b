"""Policies that try to pump energy into an arm through a passivity filter, and an energy ledger of their own.

The arm is the WidowX in MuJoCo, its fingers fixed. The ledger knows nothing of the filter but what it
executes: it adds the kinetic energy from MuJoCo's mass matrix to the springs' e'Ke/2 and the tank.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
import numpy.typing as npt

import sim  # noqa: F401 - chooses the OpenGL backend before mujoco needs it
from benchmarks.cma_es import search
from robot_rl.safety import PassivityConfig, PassivityFilter
from sim.kinematics import ARM_XML, JOINTS

Floats = npt.NDArray[np.float64]

PHYSICS_S, PERIOD_S = 0.002, 0.02
HOME = np.array([0.0, -0.96, 1.16, 0.0, -0.3, 0.0])
STIFFNESS = np.array([200.0, 300.0, 200.0, 40.0, 50.0, 20.0])
DAMPING = np.array([12.0, 18.0, 10.0, 1.6, 2.0, 0.8])
TOLERANCE_J = 1e-6
"""Largest rise of S in a step that counts as none, without contact."""

BLOWN_UP_J = 1e4
RESTART = 500
"""Steps after which arm and tank start anew: an attack that has run dry shows nothing."""
SPREAD = 0.2
"""Standard deviation of the starting pose [rad]."""


class Plant:
    """The arm, its servos' gains free to set: nothing but springs, dampers and inertia, unless asked for.

    Args:
        contacts: put in the table and the joints' stops.
        torque_limits: of the servos.
        dry_friction: of the joints, as stiff as the step allows. MuJoCo's dry friction is a soft constraint,
            which cancels a share of any force on the joint: also of one that brakes it. With its default of
            20 ms it so does work on a joint that slows down, up to 2e-6 J in a period, and is not passive.
    """

    def __init__(
        self, contacts: bool = False, torque_limits: bool = False, dry_friction: bool = False
    ) -> None:
        root = ElementTree.fromstring(ARM_XML.read_text())
        for body in root.iter("body"):
            for joint in [j for j in body.findall("joint") if "finger" in j.get("name", "")]:
                body.remove(joint)
        root.remove(root.find("equality"))  # type: ignore[arg-type]
        actuators = root.find("actuator")
        assert actuators is not None
        for actuator in list(actuators):
            actuator.attrib.pop("ctrlrange")
            if actuator.get("name") == "gripper":
                actuators.remove(actuator)
            elif not torque_limits:
                actuator.attrib.pop("forcerange")
        if not torque_limits:
            for joint in root.iter("joint"):
                joint.attrib.pop("actuatorfrcrange", None)
        if contacts:
            world = root.find("worldbody")
            assert world is not None
            table = {"type": "plane", "size": "3 3 .1", "contype": "1", "conaffinity": "3"}
            ElementTree.SubElement(world, "geom", table)
        self.model = mujoco.MjModel.from_xml_string(ElementTree.tostring(root, encoding="unicode"))
        # The servos compensate the links' weight but not the fingers': without gravity H is kinetic alone.
        self.model.opt.gravity[:] = 0
        if not contacts:
            self.model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_CONTACT
            self.model.jnt_limited[:] = 0
        if dry_friction:
            self.model.dof_solref[:] = 2 * PHYSICS_S, 1.0
            self.model.dof_solimp[:, :2] = 0.9999
        else:
            self.model.dof_frictionloss[:] = 0.0
        self.data = mujoco.MjData(self.model)
        assert [self.model.joint(i).name for i in range(self.model.njnt)] == list(JOINTS)

    def reset(self, rng: np.random.Generator) -> None:
        """At rest in a pose of its own, touching nothing."""
        mujoco.mj_resetData(self.model, self.data)
        while True:
            self.data.qpos[:] = self.data.ctrl[:] = HOME + rng.normal(0, SPREAD, 6)
            self.kinetic()
            if not self.touching:
                return

    @property
    def position(self) -> Floats:
        """Joint angles (6,) [rad]."""
        return self.data.qpos.copy()

    def advance(self, setpoint: Floats, stiffness: Floats, damping: Floats) -> None:
        """One filter period of physics."""
        self.model.actuator_gainprm[:, 0] = stiffness
        self.model.actuator_biasprm[:, 1] = -stiffness
        self.model.actuator_biasprm[:, 2] = -damping
        self.data.ctrl[:] = setpoint
        mujoco.mj_step(self.model, self.data, nstep=round(PERIOD_S / PHYSICS_S))

    def kinetic(self) -> float:
        """v'Mv/2 [J], with the mass matrix of the present pose."""
        mujoco.mj_fwdPosition(self.model, self.data)
        product = np.zeros(self.model.nv)
        mujoco.mj_mulM(self.model, self.data, product, self.data.qvel)
        return 0.5 * float(self.data.qvel @ product)

    @property
    def touching(self) -> bool:
        """Whether the arm touches anything, or a joint its stop, as of the last `kinetic`."""
        return self.data.ncon + self.data.nl > 0


Request = tuple[Floats, Floats, Floats]
Attack = Callable[[np.random.Generator, int, Floats, Floats, Floats], Request]
"""(generator, step, position, velocity, executed setpoint) -> requested setpoint, stiffness, damping."""

REACH = 0.25
"""How far an attack sets the setpoint off [rad]."""
NONE, UNLIMITED = np.zeros(6), [math.inf] * 6


def random_attack(rng: np.random.Generator, k: int, q: Floats, v: Floats, u: Floats) -> Request:
    return q + rng.normal(0, REACH, 6), STIFFNESS * rng.uniform(0.05, 1, 6), DAMPING * rng.uniform(0, 1, 6)


def bang_bang(rng: np.random.Generator, k: int, q: Floats, v: Floats, u: Floats) -> Request:
    """Both ends in turn, with a period that runs through the arm's resonances."""
    sign = 1.0 if (k // (1 + (k // 200) % 12)) % 2 else -1.0
    return HOME + sign * REACH * rng.choice([-1.0, 1.0], 6), STIFFNESS, NONE


def velocity_pump(rng: np.random.Generator, k: int, q: Floats, v: Floats, u: Floats) -> Request:
    """Always pull the way it moves."""
    return q + REACH * np.sign(v + rng.normal(0, 0.02, 6)), STIFFNESS, NONE


def stiffness_pump(rng: np.random.Generator, k: int, q: Floats, v: Floats, u: Floats) -> Request:
    """Soft while the spring is being tensed, stiff while it lets go."""
    setpoint = HOME + (REACH * math.sin(0.05 * k) if k % 400 < 100 else 0.0)
    return setpoint, np.where((setpoint - q) * v > 0, STIFFNESS, 0.02 * STIFFNESS), NONE


def combined(rng: np.random.Generator, k: int, q: Floats, v: Floats, u: Floats) -> Request:
    """The velocity pump, stiff when it pulls; at times it rests, so that the tank fills."""
    if k % 150 > 120:
        return u, 0.02 * STIFFNESS, DAMPING
    setpoint = q + REACH * np.sign(v + rng.normal(0, 0.02, 6))
    return setpoint, np.where((u - q) * v > 0, STIFFNESS, 0.02 * STIFFNESS), NONE


ATTACKS: dict[str, Attack] = {
    "random": random_attack,
    "bang-bang": bang_bang,
    "velocity pump": velocity_pump,
    "stiffness pump": stiffness_pump,
    "combined": combined,
}
PARAMETERS = 17


def learned_attack(parameters: Floats) -> Attack:
    """A feedback law with 17 parameters: what the search is free to choose."""
    p = np.asarray(parameters, np.float64)
    reach = REACH / (1 + np.exp(-p[:6])) * 2

    def attack(rng: np.random.Generator, k: int, q: Floats, v: Floats, u: Floats) -> Request:
        wave = math.sin(math.exp(np.clip(p[6], -4, 0.5)) * k + p[7])
        error = u - q
        push = np.tanh(p[8] * v + p[9] * wave + 10 * p[10] * error + rng.normal(0, 0.05, 6))
        soften = p[11] + p[12] * np.sign(error * v) + p[13] * wave + p[14] * np.abs(v)
        damp = 1 / (1 + np.exp(-np.clip(4 * p[15] + p[16] * np.abs(v), -30, 30)))
        return q + reach * push, STIFFNESS / (1 + np.exp(-np.clip(soften, -30, 30))), DAMPING * damp

    return attack


def filter_config(torque_limits: bool = False, **changes: Any) -> PassivityConfig:
    """The budget under attack: strictly passive, 2 J."""
    values: dict[str, Any] = {"tank_max_j": 2.0, "period_s": PERIOD_S, "servo_period_s": PHYSICS_S}
    if torque_limits:
        values |= {"torque_limit": (10.0, 14.0, 12.0, 1.8, 4.5, 0.9)}
    return PassivityConfig(**(values | changes))


@dataclass
class Outcome:
    """What the ledger saw."""

    steps: int = 0
    rises: int = 0
    """Steps in which S, less what was metered in, stood above its last value without contact by more than
    the tolerance. Without any contact: in which it rose by more than that."""
    largest_rise: float = -math.inf
    """Of the same [J]."""
    contact_rise: float = 0.0
    """Largest rise of S in one step that began or ended in contact [J]."""
    tank_violations: int = 0
    residual: float = 0.0
    """Largest error of the tank's account over the whole run [J]."""
    peak_kinetic: float = 0.0
    peak_energy: float = 0.0
    """Of kinetic + spring energy [J]."""
    delivered: float = 0.0
    """Mean share of the way that was executed."""

    def merge(self, other: Outcome) -> Outcome:
        """Both runs together; `delivered` weighted by steps."""
        steps = self.steps + other.steps
        delivered = (self.delivered * self.steps + other.delivered * other.steps) / max(1, steps)
        worst = ("largest_rise", "contact_rise", "residual", "peak_kinetic", "peak_energy")
        return Outcome(
            steps=steps,
            rises=self.rises + other.rises,
            tank_violations=self.tank_violations + other.tank_violations,
            delivered=delivered,
            **{name: max(getattr(self, name), getattr(other, name)) for name in worst},
        )


def assail(
    plant: Plant,
    attack: Attack,
    config: PassivityConfig | None,
    steps: int,
    seed: int,
    tolerance: float = TOLERANCE_J,
) -> Outcome:
    """Let `attack` drive `plant` for `steps` periods, through a filter, or with none (`config` None)."""
    rng = np.random.default_rng(seed)
    passivity = PassivityFilter(config) if config is not None else None
    torque = config.per_joint("torque_limit", 6) if config is not None else UNLIMITED
    outcome, account, before, free, touched = Outcome(), [], 0.0, 0.0, False
    for k in range(steps):
        since = k % RESTART
        if since == 0:
            plant.reset(rng)
            q = u = plant.position
            v, stiffness, damping, tank, booked_metered = NONE, STIFFNESS, DAMPING, 0.0, 0.0
            if passivity is not None:
                passivity.reset(q, u, stiffness, damping)
                tank = passivity.tank.level
        asked = attack(rng, k, q, v, u)
        new, new_stiffness, new_damping, level = *asked, tank
        if passivity is not None:
            pending = passivity.pending(q) if since else 0.0
            result = passivity.step(q=q, setpoint=asked[0], stiffness=asked[1], damping=asked[2])
            new, new_stiffness, new_damping = result.setpoint, result.stiffness, result.damping
            level = result.tank
            outcome.delivered += (result.scale - outcome.delivered) / (k + 1)
            outcome.tank_violations += not passivity.tank.minimum <= level <= passivity.tank.maximum
            # The account: what was in, refill and inflow as far as they fit, the springs' change. More than
            # that is created energy; less is lost, which only the brim may do when springs are relaxed.
            most, metered = passivity.tank.maximum, passivity.tank.metered
            before_change = min(most, tank + pending) + metered - booked_metered
            held = _spring(stiffness, u - q, torque)
            error = level - (before_change + held - _spring(new_stiffness, new - q))
            booked_metered = metered
            account.append(error if error > 0 or before_change + held < most else 0.0)
        u, stiffness, damping, tank = new, new_stiffness, new_damping, level
        kinetic, spring = plant.kinetic(), _spring(stiffness, u - q)
        energy = kinetic + spring + tank - booked_metered
        if since:
            outcome.largest_rise = max(outcome.largest_rise, energy - free)
            outcome.rises += energy - free > tolerance
            if plant.touching or touched:
                outcome.contact_rise = max(outcome.contact_rise, energy - before)
        before, touched = energy, plant.touching
        if not (since and touched):  # a contact's own spring is not in S: what it took it may give back
            free = energy
        outcome.peak_kinetic = max(outcome.peak_kinetic, kinetic)
        outcome.peak_energy = max(outcome.peak_energy, kinetic + spring)
        if energy > BLOWN_UP_J:  # unfiltered: the simulation would not stay finite
            outcome.steps = k + 1
            return outcome
        plant.advance(u, stiffness, damping)
        at, q = q, plant.position
        v = (q - at) / PERIOD_S
    outcome.steps = steps
    outcome.residual = math.fsum(map(abs, account))
    return outcome


def _spring(stiffness: Floats, error: Floats, torque: list[float] | None = None) -> float:
    """Energy of springs whose pull is cut at `torque` [J]."""
    total = 0.0
    for k, e, most in zip(stiffness.tolist(), error.tolist(), torque or UNLIMITED, strict=True):
        pull = k * abs(e)
        total += 0.5 * pull * abs(e) if pull <= most else most * (abs(e) - 0.5 * most / k)
    return total


def optimised(plant: Plant, config: PassivityConfig, generations: int, steps: int, seed: int) -> Floats:
    """Parameters (PARAMETERS,) of the attack that gets most energy into arm and springs through a filter."""

    def injected(parameters: Floats) -> float:
        return assail(plant, learned_attack(parameters), config, steps, seed).peak_energy

    return search(injected, PARAMETERS, generations, seed)
