"""Attacks on the filter in MuJoCo, judged by an energy ledger that knows only what is executed.

The long form is `python -m benchmarks.adversaries`.
"""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.adversaries import CONTACT_TOLERANCE_J
from benchmarks.attacks import (
    ATTACKS,
    PARAMETERS,
    TOLERANCE_J,
    Plant,
    assail,
    filter_config,
    learned_attack,
    optimised,
)
from benchmarks.cma_es import search

STEPS = 400
PLANTS = {limited: Plant(torque_limits=limited) for limited in (False, True)}


@pytest.mark.parametrize("limited", [False, True], ids=["unlimited", "limited torque"])
@pytest.mark.parametrize("name", ATTACKS)
def test_no_attack_creates_energy_and_without_the_filter_it_does(name: str, limited: bool) -> None:
    plant = PLANTS[limited]
    outcome = assail(plant, ATTACKS[name], filter_config(limited), STEPS, seed=0)
    assert (outcome.rises, outcome.tank_violations) == (0, 0)
    assert outcome.largest_rise <= TOLERANCE_J
    assert outcome.residual <= 1e-9
    assert outcome.peak_energy <= 2.0  # nothing but what the tank held
    bare = assail(plant, ATTACKS[name], None, STEPS, seed=0)
    assert bare.rises > 10
    assert bare.peak_energy > 2 * outcome.peak_energy


def test_an_energy_bounded_filter_is_not_passive_but_keeps_its_account() -> None:
    config = filter_config(mode="energy_bounded", power_w=2.0)
    outcome = assail(PLANTS[False], ATTACKS["combined"], config, STEPS, seed=0)
    assert (outcome.tank_violations, outcome.residual <= 1e-9) == (0, True)
    assert outcome.largest_rise <= 2.0 * 0.02 + TOLERANCE_J  # the inflow, and no more


def test_the_ledger_sees_a_filter_that_refills_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    from robot_rl.safety.spring import Spring

    honest = Spring.dissipated
    monkeypatch.setattr(Spring, "dissipated", lambda *given: 2 * honest(*given))
    assert assail(PLANTS[False], ATTACKS["combined"], filter_config(), STEPS, seed=0).rises > 0


@pytest.mark.parametrize("name", ["stiffness pump", "combined"])
def test_in_contact_rises_stay_within_the_stated_tolerance(name: str) -> None:
    plant = Plant(contacts=True, torque_limits=True)
    outcome = assail(plant, ATTACKS[name], filter_config(True), STEPS, 0, CONTACT_TOLERANCE_J)
    assert (outcome.rises, outcome.tank_violations) == (0, 0)
    assert outcome.residual <= 1e-9


def test_an_attack_that_was_searched_for_gets_no_further() -> None:
    found = optimised(PLANTS[False], filter_config(), generations=3, steps=60, seed=0)
    attack = learned_attack(found)
    outcome = assail(PLANTS[False], attack, filter_config(), STEPS, seed=1)
    assert (outcome.rises, outcome.tank_violations) == (0, 0)
    assert outcome.peak_energy <= 2.0


def test_the_search_climbs() -> None:
    goal = np.linspace(-1, 1, PARAMETERS)
    found = search(lambda x: -float((x - goal) @ (x - goal)), PARAMETERS, generations=150, seed=0)
    np.testing.assert_allclose(found, goal, atol=0.05)
    assert learned_attack(found)(np.random.default_rng(0), 0, *np.zeros((3, 6)))[0].shape == (6,)
