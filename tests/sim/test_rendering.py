"""Renderers beside one another in one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from sim.rendering import Renderer, without_shadows  # isort: skip - before mujoco

import mujoco

SCENE = """
<mujoco>
  <worldbody>
    <light pos="0 0 2"/>
    <geom type="plane" size="1 1 .1" rgba="{rgb} 1"/>
    <camera name="top" pos="0 0 1"/>
  </worldbody>
</mujoco>
"""
COLOURS = {"1 0 0": 0, "0 1 0": 1, "0 0 1": 2}


def scene(rgb: str) -> tuple[mujoco.MjModel, mujoco.MjData]:
    model = without_shadows(mujoco.MjModel.from_xml_string(SCENE.format(rgb=rgb)))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


def brightest_channel(renderer: Renderer, data: mujoco.MjData) -> int:
    renderer.update_scene(data, "top")
    return int(np.argmax(renderer.render().reshape(-1, 3).sum(0)))


def test_closing_one_renderer_leaves_the_others_their_pictures() -> None:
    scenes = {rgb: scene(rgb) for rgb in COLOURS}
    renderers = {rgb: Renderer(model) for rgb, (model, _) in scenes.items()}
    for closed in list(COLOURS)[:2]:
        renderers.pop(closed).close()
        for rgb, renderer in renderers.items():
            assert brightest_channel(renderer, scenes[rgb][1]) == COLOURS[rgb]
    for renderer in renderers.values():
        renderer.close()
        renderer.close()


def test_a_picture_larger_than_the_declared_buffer() -> None:
    model, data = scene("1 0 0")
    renderer = Renderer(model, 900, 900)
    assert brightest_channel(renderer, data) == 0
    renderer.close()


def test_without_opengl_the_error_names_the_remedy() -> None:
    """In a process of its own: MuJoCo reads the backend once."""
    script = "from tests.sim.test_rendering import Renderer, scene; Renderer(scene('1 0 0')[0])"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"MUJOCO_GL": "disable"},
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("sim.rendering.RenderingError: no off-screen OpenGL")
    assert "apt-get install -y libegl1 libosmesa6" in last
