"""MuJoCo reads its OpenGL backend when it is first imported; `sim` chooses it."""

import sim  # noqa: F401
