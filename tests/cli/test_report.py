"""report.html: complete, self-contained, robust to whatever a run lacks, and fit to be looked at."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robot_rl.cli.report import contents, write_report
from robot_rl.errors import DataError
from tests.cli.fake_run import make_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
VOID = {"meta", "link", "br", "hr", "img", "input"}


class Links(HTMLParser):
    """Collects every URL a page loads, its ids, and checks that tags are balanced."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self._attributes(attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._attributes(attrs)

    def _attributes(self, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.urls += [values[key] or "" for key in ("src", "href", "xlink:href") if key in values]
        self.ids += [values["id"] or ""] if "id" in values else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "fake")


@pytest.fixture(scope="module")
def report(run_dir: Path) -> Path:
    return write_report(run_dir)


def test_shows_everything_a_run_has(report: Path) -> None:
    page = report.read_text()
    sections = ("success", "videos", "world-model", "reward", "safety", "curves", "metrics", "reproduce")
    for section in sections:
        assert f'<section id="{section}">' in page
    assert page.count("data:video/mp4;base64,") == 9
    assert "robot-rl pipeline task=widowx/push" in page
    assert "0123456789abcdef" in page
    assert "position limit" in page
    assert "threshold 0.62" in page


def test_is_one_file_that_loads_nothing(report: Path) -> None:
    page = report.read_text()
    links = Links()
    links.feed(page)
    links.close()
    assert links.open == []
    assert links.urls
    assert all(url.startswith(("data:", "#")) for url in links.urls)
    assert not re.search(r"@import|url\((?!#)", page)
    assert len(links.ids) == len(set(links.ids)), "two charts share an id"
    assert {url[1:] for url in links.urls if url.startswith("#")} <= set(links.ids)


def test_what_a_user_wrote_stays_text(report: Path) -> None:
    page = report.read_text()
    assert "<script" not in page
    assert "&lt;script&gt;bad()" in page
    assert "a &lt;b&gt; &amp; c" in page


def test_differences_are_paired_by_seed(run_dir: Path) -> None:
    rows = {row["name"]: row for row in contents(run_dir)["rows"]}
    assert rows["bc"]["to_baseline"] is None
    for name in ("refine", "offline", "online"):
        gain = rows[name]["success"]["mean"] - rows["bc"]["success"]["mean"]
        assert rows[name]["to_baseline"]["mean"] == pytest.approx(gain)
        assert rows[name]["to_baseline"]["low"] <= gain <= rows[name]["to_baseline"]["high"]
    assert rows["online"]["to_previous"]["mean"] == pytest.approx(
        rows["online"]["success"]["mean"] - rows["offline"]["success"]["mean"]
    )
    assert rows["world_model"]["to_baseline"] is None  # it makes no policy


@pytest.mark.parametrize(
    "missing",
    ["summary.json", "run.json", "metrics.jsonl", "config.yaml", "videos", "stages", "stages/bc/eval.json"],
)
def test_a_run_without_it_still_has_a_report(run_dir: Path, tmp_path: Path, missing: str) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    target = copy / missing
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    assert "</html>" in write_report(copy).read_text()


def test_an_empty_run_has_a_report(tmp_path: Path) -> None:
    assert "No stage is finished yet" in write_report(tmp_path).read_text()


def test_bad_input_names_the_file(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a run directory"):
        write_report(tmp_path / "absent")
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(DataError, match=r"summary\.json is damaged"):
        write_report(tmp_path)


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: sudo apt-get install -y chromium")
def test_renders_in_a_browser_without_errors(report: Path, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    picture = tmp_path / "report.png"
    done = subprocess.run(
        [
            CHROMIUM,
            *FLAGS,
            "--enable-logging=stderr",
            "--v=0",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--window-size=1100,2600",
            "--virtual-time-budget=3000",
            f"--screenshot={picture}",
            report.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert picture.exists(), done.stderr[-2000:]
    # The page's own policy forbids every outside request, and a forbidden one is reported here too.
    assert "default-src 'none'" in report.read_text()
    assert "CONSOLE" not in done.stderr, done.stderr[-2000:]
    pixels = np.asarray(Image.open(picture).convert("RGB"))
    assert pixels.shape[:2] == (2600, 1100)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 500
    ink = (np.abs(pixels.astype(int) - pixels[5, 5]).max(2) > 40).any(1)  # rows that hold something
    assert ink.mean() > 0.3
