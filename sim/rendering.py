"""Off-screen pictures: the OpenGL backend, chosen before MuJoCo is imported, and the camera on top of it.

Import `mujoco` in this project only after this module (`sim/__init__.py` sees to it): MuJoCo reads
`MUJOCO_GL` once, when it is first imported.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import weakref
from pathlib import Path

import numpy as np
import numpy.typing as npt

from robot_rl.errors import RobotRLError

REMEDY = "install a software renderer: `sudo apt-get install -y libegl1 libosmesa6`"


class RenderingError(RobotRLError):
    """No off-screen OpenGL context could be made."""


def _loadable(*names: str) -> bool:
    for name in names:
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return True
    return False


def has_gpu() -> bool:
    """Whether a graphics device is there that EGL would render on."""
    return Path("/dev/nvidia0").exists() or any(Path("/dev/dri").glob("renderD*"))


def choose_backend() -> str:
    """The value for `MUJOCO_GL`: EGL on a GPU, else OSMesa (twice as fast as Mesa's EGL at 64x64).

    `disable` if neither library is there: states still work, and the first picture raises
    `RenderingError`.
    """
    osmesa = _loadable("libOSMesa.so.8", "libOSMesa.so.6", "libOSMesa.so")
    egl = _loadable("libEGL.so.1")
    if egl and (has_gpu() or not osmesa):
        return "egl"
    return "osmesa" if osmesa else "disable"


if not os.environ.get("MUJOCO_GL"):
    os.environ["MUJOCO_GL"] = choose_backend()

try:
    import mujoco
except (ImportError, AttributeError, RuntimeError) as error:  # PyOpenGL raises AttributeError
    raise RenderingError(
        f"mujoco does not import with MUJOCO_GL={os.environ['MUJOCO_GL']} ({error}): unset it, or {REMEDY}"
    ) from error


def without_shadows(model: mujoco.MjModel) -> mujoco.MjModel:
    """`model` with shadow map and multisampling off: 64x64 pictures in software get ~50 times faster.

    Works only before the first render context of the model is made, which copies both settings.
    """
    model.vis.quality.shadowsize = 0
    model.vis.quality.offsamples = 0
    return model


class Renderer(mujoco.Renderer):
    """MuJoCo's renderer, safe beside others in one process.

    MuJoCo's own `close` releases the OpenGL context first and then deletes textures and framebuffers of
    the same numbers in whichever context is current, so closing one renderer spoils the pictures of the
    next. Here the resources go while their own context is current.

    Raises:
        RenderingError: no off-screen OpenGL context could be made.
    """

    def __init__(self, model: mujoco.MjModel, height: int = 64, width: int = 64) -> None:
        model.vis.global_.offheight = max(model.vis.global_.offheight, height)
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, width)
        self._gl_context = self._mjr_context = None
        try:
            super().__init__(model, height, width)
        except Exception as error:  # each OpenGL backend raises types of its own
            cause = f"{type(error).__name__}: {error}"
            raise RenderingError(f"no off-screen OpenGL ({cause}): {REMEDY}") from error
        # Registered after MuJoCo's own exit hook (which ends the EGL display), hence run before it.
        atexit.register(_close, weakref.ref(self))

    def picture(
        self,
        data: mujoco.MjData,
        camera: str | int | mujoco.MjvCamera,
        option: mujoco.MjvOption | None = None,
    ) -> npt.NDArray[np.uint8]:
        """The RGB picture (H, W, 3) of `data` through a camera."""
        self.update_scene(data, camera, option)
        return self.render()

    def close(self) -> None:
        """Free the OpenGL resources. Safe to call again."""
        if self._gl_context and self._mjr_context:
            self._gl_context.make_current()
            self._mjr_context.free()
            self._mjr_context = None
        super().close()


def _close(reference: weakref.ref[Renderer]) -> None:
    renderer = reference()
    if renderer is not None:
        renderer.close()
