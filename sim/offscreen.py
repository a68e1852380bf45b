"""Pictures without a screen: one renderer class for every environment."""

from __future__ import annotations

import atexit
import weakref

import mujoco

from sim.spec import SimulationError

REMEDY = "install a software renderer: `sudo apt-get install -y libegl1 libosmesa6`"


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

    Args:
        model: its off-screen buffer is enlarged where it is smaller than the picture.
        size: height and width of the pictures [pixels].

    Raises:
        SimulationError: no off-screen OpenGL context could be made; the message says what to install.
    """

    def __init__(self, model: mujoco.MjModel, size: int = 64) -> None:
        model.vis.global_.offheight = max(model.vis.global_.offheight, size)
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, size)
        self._gl_context = self._mjr_context = None
        try:
            super().__init__(model, size, size)
        except Exception as error:  # each OpenGL backend raises types of its own
            cause = f"{type(error).__name__}: {error}"
            raise SimulationError(f"no off-screen OpenGL ({cause}): {REMEDY}") from error
        # Registered after MuJoCo's own exit hook (which ends the EGL display), hence run before it.
        atexit.register(_close, weakref.ref(self))

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
