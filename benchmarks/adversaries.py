"""Attacks on the passivity filter in full: 100,000 steps of each, five seeds; and without the filter.

    python -m benchmarks.adversaries --json benchmarks/results/adversaries.json    about an hour
    python -m benchmarks.adversaries --quick

The file grows with every seed of every attack; a call with the same file goes on where the last one stopped.
What is judged: the tank within its bounds, the books closed to 1e-9 J over a whole run, and no rise of

    S = H + e'Ke/2 + tank - metered in        (measured right after a step, when no refill is pending)

above 1e-6 J without contact. A contact in MuJoCo is a spring of its own, whose energy is not in S: S falls
when it is pressed and rises when it lets go. So in contact S is held against its last value without contact,
with a tolerance of `CONTACT_TOLERANCE_J`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.attacks import (
    ATTACKS,
    TOLERANCE_J,
    Attack,
    Outcome,
    Plant,
    assail,
    filter_config,
    learned_attack,
    optimised,
)
from benchmarks.harness import machine, versions
from robot_rl.data.artifact import atomic_write
from robot_rl.safety import PassivityConfig

CONTACT_TOLERANCE_J = 0.03
RESIDUAL_J = 1e-9
FILTERS: dict[str, tuple[bool, dict[str, Any]]] = {
    "passive, unlimited torque": (False, {}),
    "passive, limited torque": (True, {}),
    "energy-bounded, limited torque": (True, {"mode": "energy_bounded", "power_w": 2.0}),
}
"""Name -> whether the servos' torque is limited, and the changes of the budget (2 J)."""
PLACES = ("free", "contact", "no filter", "dry friction")
SEARCHED, SEPARATOR = "searched", " / "


def cases(seeds: int) -> Iterator[tuple[str, str, str, int]]:
    """(filter, place, attack, seed); the last two places only for the first filter."""
    for name, places in zip(FILTERS, (PLACES, PLACES[:2], PLACES[:2]), strict=True):
        for place in places:
            for attack in (*ATTACKS, SEARCHED):
                yield from ((name, place, attack, seed) for seed in range(seeds))


def verdict(place: str, outcome: Outcome) -> bool:
    """Whether the filter kept its promises."""
    return (
        outcome.tank_violations == 0
        and outcome.residual <= RESIDUAL_J
        and outcome.largest_rise <= (CONTACT_TOLERANCE_J if place == "contact" else TOLERANCE_J)
    )


def _name(case: tuple[str, str, str, int]) -> str:
    return SEPARATOR.join(map(str, case))


class Campaign:
    """Outcomes in a JSON file, a case at a time."""

    def __init__(self, path: Path | None, quick: bool) -> None:
        self.path, self.quick = path, quick
        self.steps, self.seeds, self.generations = (1_000, 1, 3) if quick else (100_000, 5, 60)
        settings = {"steps": self.steps, "seeds": self.seeds, "generations": self.generations}
        self.record: dict[str, Any] = {"settings": settings, "searched": {}, "runs": {}}
        if path is not None and path.exists():
            self.record = json.loads(path.read_text())
            if self.record.get("settings") != settings:
                raise SystemExit(f"{path} was made with {self.record.get('settings')}; now {settings}")
        self._plants: dict[tuple[str, bool], Plant] = {}

    def run(self) -> None:
        """Every case that is not in the file yet."""
        pending = [case for case in cases(self.seeds) if _name(case) not in self.record["runs"]]
        for number, case in enumerate(pending, 1):
            outcome = self._outcome(*case)
            self.record["runs"][_name(case)] = asdict(outcome)
            self._save()
            rise = f"largest {outcome.largest_rise:.2g} J, residual {outcome.residual:.2g} J"
            print(f"{number}/{len(pending)} {_name(case)}: {outcome.rises} rises, {rise}", flush=True)

    def table(self) -> dict[str, dict[str, Any]]:
        """`FILTER / PLACE / ATTACK` -> all its seeds together, and the verdict."""
        merged: dict[str, Outcome] = {}
        for name, run in self.record["runs"].items():
            case = name.rpartition(SEPARATOR)[0]
            merged[case] = merged.get(case, Outcome()).merge(Outcome(**run))
        return {
            case: asdict(outcome) | {"passed": verdict(case.split(SEPARATOR)[1], outcome)}
            for case, outcome in merged.items()
        }

    def _outcome(self, name: str, place: str, attack: str, seed: int) -> Outcome:
        limited, changes = FILTERS[name]
        config = filter_config(limited, **changes)
        law = self._searched(name, config) if attack == SEARCHED else ATTACKS[attack]
        plant = self._plant(place, limited)
        if place == PLACES[2]:
            return assail(plant, law, None, min(self.steps, 1_000), seed)
        tolerance = CONTACT_TOLERANCE_J if place == "contact" else TOLERANCE_J
        return assail(plant, law, config, self.steps, seed, tolerance)

    def _searched(self, name: str, config: PassivityConfig) -> Attack:
        if name not in self.record["searched"]:
            plant = self._plant("free", FILTERS[name][0])
            self.record["searched"][name] = optimised(plant, config, self.generations, 150, seed=0).tolist()
        return learned_attack(self.record["searched"][name])

    def _plant(self, place: str, limited: bool) -> Plant:
        key = (place, limited)
        if key not in self._plants:
            self._plants[key] = Plant(place == "contact", limited, place == "dry friction")
        return self._plants[key]

    def _save(self) -> None:
        if self.path is None:
            return
        self.record |= {
            "benchmark": "adversaries",
            "machine": machine(),
            "versions": versions(("numpy", "mujoco")),
            "command": "python -m benchmarks.adversaries --json FILE" + " --quick" * self.quick,
            "table": self.table(),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(self.path, (json.dumps(self.record, indent=1) + "\n").encode())


def main() -> int:
    """1 if a filtered case broke its promise, or an unfiltered one kept it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.adversaries")
    parser.add_argument("--quick", action="store_true", help="1,000 steps, one seed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="grows with every case; goes on from it")
    options = parser.parse_args()
    campaign = Campaign(options.json, options.quick)
    campaign.run()
    wrong = [name for name, row in campaign.table().items() if row["passed"] == (PLACES[2] in name)]
    held = "every filtered case held, every other one failed"
    print("\n".join(f"WRONG: {name}" for name in wrong) or held)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
