"""`robot-rl dataset VERB`: look at recorded episodes, check, convert, merge, split, filter, label them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from robot_rl.cli import labelling
from robot_rl.cli.progress import TerminalProgress
from robot_rl.cli.verbs import whole_number
from robot_rl.data.artifact import atomic_write
from robot_rl.data.contact_sheet import SheetConfig, write_contact_sheet
from robot_rl.data.episode import Episode
from robot_rl.data.formats import Dataset, Written, convert
from robot_rl.data.statistics import Statistics
from robot_rl.data.store import EpisodeStore
from robot_rl.data.summary import DatasetSummary, SummaryConfig, summarise
from robot_rl.errors import ConfigError, DataError

SHEET_ROWS = 12
_BARS = " ▁▂▃▄▅▆▇█"
Keep = Callable[[int, Episode], bool]


def dataset(arguments: dict[str, str], overrides: list[str]) -> int:
    """One of `SUBJECTS`."""
    subject = arguments["subject"]
    needed = ["src", "dst"] if subject in ("convert", "merge", "split", "filter", "label") else ["src"]
    needed += ["reward"] if subject == "label" else []
    if missing := [name for name in needed if name not in arguments]:
        raise ConfigError(f"dataset {subject} needs {missing[0]}=. See robot-rl dataset --help")
    SUBJECTS[subject](arguments)
    return 0


def info(arguments: dict[str, str]) -> None:
    """What the dataset holds, as text, JSON and a contact sheet."""
    source = Dataset.open(arguments["src"])
    reference = Dataset.open(arguments["reference"]) if "reference" in arguments else None
    found = summarise(_counted(source, "read"), _summary_config(arguments), reference)
    print(f"{arguments['src']} ({source.format.name})")
    for line in _lines(found, reference is not None):
        print("  " + line)
    if "json" in arguments:
        atomic_write(Path(arguments["json"]), json.dumps(found.to_dict()).encode())
    if "sheet" in arguments:
        rows = whole_number(arguments, "rows", SHEET_ROWS)
        chosen = set(
            np.linspace(0, len(found.lengths) - 1, min(rows, len(found.lengths))).round().astype(int)
        )
        kept = ((number, episode) for number, episode in enumerate(source) if number in chosen)
        write_contact_sheet(arguments["sheet"], kept, SheetConfig(camera=arguments.get("camera", "")))
        print(f"contact sheet: {arguments['sheet']}")


def validate(arguments: dict[str, str]) -> None:
    """Read everything, and check every hash of a store."""
    source = Dataset.open(arguments["src"])
    if source.format.name == "store":
        store = EpisodeStore(source.path)
        if not len(store):
            raise DataError(f"{source.path} holds no episodes; collect or fetch some first")
        with TerminalProgress().task("validate", len(store)) as bar:
            store.validate(lambda done, total: bar.update(done))
        print(f"{arguments['src']}: {len(store)} episodes, every hash right")
        return
    number = steps = 0
    for episode in _counted(source, "validate"):
        number, steps = number + 1, steps + len(episode)
    if not number:
        raise DataError(f"{arguments['src']} holds no episodes")
    print(f"{arguments['src']}: {number} episodes, {steps} steps, all readable ({source.format.name})")


def convert_dataset(arguments: dict[str, str]) -> None:
    """Into another format."""
    if "format" not in arguments:
        raise ConfigError("dataset convert needs format=: store, lerobot_v3, minari or robomimic")
    _write(Dataset.open(arguments["src"]), arguments)


def merge(arguments: dict[str, str]) -> None:
    """Several datasets, of any formats, one after the other."""
    _write(Several([Dataset.open(spec) for spec in arguments["src"].split(",")]), arguments)


def split(arguments: dict[str, str]) -> None:
    """By episode, at random by `seed`, into dst/NAME for each NAME:SHARE."""
    source = Dataset.open(arguments["src"])
    shares = _shares(arguments.get("shares", "train:0.9,test:0.1"))
    number = sum(1 for _ in source)
    order = np.random.default_rng(whole_number(arguments, "seed", 0, least=0)).permutation(number)
    cuts = np.cumsum([round(share * number) for share in list(shares.values())[:-1]])
    for name, part in zip(shares, np.split(order, cuts), strict=True):
        if not len(part):
            raise ConfigError(f"shares give {name!r} none of {number} episodes; give it a larger share")
        chosen = set(part.tolist())
        _write(Chosen(source, lambda i, _, c=chosen: i in c), arguments, Path(arguments["dst"]) / name)  # type: ignore[misc]


def filter_dataset(arguments: dict[str, str]) -> None:
    """The episodes that satisfy every condition given."""
    _write(Chosen(Dataset.open(arguments["src"]), condition(arguments)), arguments)


def stats(arguments: dict[str, str]) -> None:
    """Mean, spread and range of every float array."""
    found = Statistics.from_episodes(_counted(Dataset.open(arguments["src"]), "read"))
    for name, feature in sorted(found.features.items()):
        print(f"{name}  ({feature.count} rows)")
        for label in ("mean", "std", "min", "max"):
            values = np.atleast_1d(getattr(feature, label)).ravel()
            print(f"  {label:5}" + " ".join(f"{value:9.4f}" for value in values[:16]))
    if "json" in arguments:
        atomic_write(Path(arguments["json"]), found.to_json().encode())


SUBJECTS: dict[str, Callable[[dict[str, str]], None]] = {
    "info": info,
    "validate": validate,
    "convert": convert_dataset,
    "merge": merge,
    "split": split,
    "filter": filter_dataset,
    "stats": stats,
    "label": labelling.label,
}


@dataclass(frozen=True)
class Several:
    """Datasets one after the other."""

    parts: list[Dataset]

    def __iter__(self) -> Iterator[Episode]:
        return chain.from_iterable(self.parts)


@dataclass(frozen=True)
class Chosen:
    """The episodes of `source` for which `keep` holds."""

    source: Iterable[Episode]
    keep: Keep

    def __iter__(self) -> Iterator[Episode]:
        return (episode for number, episode in enumerate(self.source) if self.keep(number, episode))


def condition(arguments: dict[str, str]) -> Keep:
    """What `success=`, `steps=`, `instruction=`, `source=` and `episodes=` together ask for."""
    conditions: list[Keep] = []
    if "success" in arguments:
        if arguments["success"] not in ("yes", "no"):
            raise ConfigError(f"success={arguments['success']!r}; expected yes or no")
        conditions.append(lambda _, episode: episode.succeeded == (arguments["success"] == "yes"))
    if "steps" in arguments:
        low, high = _range("steps", arguments["steps"])
        conditions.append(lambda _, episode: low <= len(episode) <= high)
    if "instruction" in arguments:
        conditions.append(lambda _, episode: arguments["instruction"] in episode.metadata.instruction)
    if "source" in arguments:
        conditions.append(lambda _, episode: episode.metadata.source == arguments["source"])
    if "episodes" in arguments:
        ranges = [_range("episodes", part) for part in arguments["episodes"].split(",")]
        conditions.append(lambda number, _: any(low <= number <= high for low, high in ranges))
    if not conditions:
        raise ConfigError("dataset filter needs success=, steps=, instruction=, source= or episodes=")
    return lambda number, episode: all(holds(number, episode) for holds in conditions)


def _range(name: str, text: str) -> tuple[int, int]:
    """`7`, `3-9`, `3-` or `-9`."""
    low, dash, high = text.partition("-")
    if not (low + high).isdigit() or (not dash and not low):
        raise ConfigError(f"{name}={text!r}; expected a number or a range such as 3-9, 3- or -9")
    return int(low or 0), int(high or 2**62) if dash else int(low)


def _shares(text: str) -> dict[str, float]:
    try:
        shares = {name: float(share) for name, share in (part.split(":") for part in text.split(","))}
    except ValueError as error:
        raise ConfigError(f"shares={text!r}; expected NAME:SHARE,... such as train:0.9,test:0.1") from error
    if len(shares) < 2 or min(shares.values()) <= 0 or abs(sum(shares.values()) - 1) > 1e-6:
        raise ConfigError(f"shares={text!r}; expected two or more shares above 0 that add up to 1")
    return shares


def _write(episodes: Iterable[Episode], arguments: dict[str, str], dst: Path | None = None) -> None:
    path = dst or Path(arguments["dst"])
    name = arguments.get("format", "store")
    written: Written = convert(episodes, path, name)
    print(f"{path} ({name}): {written.episodes} episodes, {written.steps} steps")
    for text in written.lost:
        print(f"  not held: {text}")
    if written.beside:
        print(f"  beside the format's own fields, for robot-rl alone: {', '.join(written.beside)}")


def _counted(source: Iterable[Episode], what: str) -> Iterator[Episode]:
    """The episodes, with a bar where it is known how many there are."""
    if not isinstance(source, Dataset) or source.format.name != "store":
        yield from source
        return
    store = EpisodeStore(source.path)
    with TerminalProgress().task(what, len(store)) as bar:
        for number, episode in enumerate(store, start=1):
            yield episode
            bar.update(number)


def _summary_config(arguments: dict[str, str]) -> SummaryConfig:
    span = None
    if "returns" in arguments:
        try:
            low, high = map(float, arguments["returns"].split(","))
        except ValueError as error:
            raise ConfigError(f"returns={arguments['returns']!r}; expected two numbers: 0,1") from error
        span = (low, high)
    return SummaryConfig(bins=whole_number(arguments, "bins", 5, least=2), return_range=span)


def _lines(found: DatasetSummary, against: bool) -> Iterator[str]:
    lengths = found.lengths
    yield (
        f"{len(lengths)} episodes, {lengths.sum()} steps ({lengths.min()} to {lengths.max()}, "
        f"median {np.median(lengths):.0f}), {found.hours:.2f} h"
    )
    yield f"success {found.successes.mean():.1%}, return {found.returns.mean():.3f} on average"
    yield f"steps by a person {found.interventions:.1%}, changed by a filter {found.filtered:.1%}"
    for title, table in (("instructions", found.instructions), ("sources", found.sources)):
        ordered = sorted(table.items(), key=lambda item: -item[1])
        listed = ", ".join(f"{name or '(none)'} x {number}" for name, number in ordered[:6])
        yield f"{title}: {listed}" + (f" and {len(ordered) - 6} more" if len(ordered) > 6 else "")
    for key, (shape, dtype) in sorted(found.observations.items()):
        yield f"{key}: {dtype} {shape}"
    yield f"TQ {found.quality:.3f}   SACo {found.coverage:.3f} " + (
        "of the reference's cells" if against else "of the steps (no reference=)"
    )
    for number, (edges, counts) in enumerate(zip(found.action_edges, found.action_counts, strict=True)):
        bars = "".join(_BARS[int(np.ceil(8 * count / max(counts.max(), 1)))] for count in counts)
        yield f"action {number}  {edges[0]:6.2f} |{bars}| {edges[-1]:.2f}"
