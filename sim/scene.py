"""A table with the arm and a task's objects, compiled once; and off-screen pictures of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import mujoco
import numpy as np
import numpy.typing as npt

from robot_rl.data import schema
from robot_rl.errors import unknown
from sim.arm import WidowXArm, Workspace
from sim.arm_model import WIDOWX_250S, ArmModel, unreadable
from sim.randomisation import Imperfections, Looks, RandomisationConfig
from sim.rendering import Renderer
from sim.spec import FloatArray

# Shadows and multisampling cost 60 ms a picture in software rendering, and nothing trains on them.
SCENE = """
<mujoco model="widowx">
  <include file="{robot}"/>
  <visual>
    <quality shadowsize="0" offsamples="0"/>
    <global offwidth="{size}" offheight="{size}"/>
    <headlight ambient="0.5 0.5 0.5" diffuse="0.5 0.5 0.5" specular="0 0 0"/>
    <map znear="0.05" zfar="20"/>
  </visual>
  <worldbody>
    <geom name="table" type="plane" size="3 3 0.1" rgba="0.86 0.85 0.82 1" friction="0.6 0.005 0.0001"
          contype="1" conaffinity="3"/>
    {cameras}
    {objects}
  </worldbody>
  {sections}
</mujoco>
"""

CAMERAS: Mapping[str, str] = {
    # Facing the robot from across the table, close enough that a 5 cm block is eight pixels wide at 64x64.
    schema.DEFAULT_CAMERA: '<camera name="front" pos="0.64 0 0.60" xyaxes="0 1 0 -0.872 0 0.49" fovy="32"/>',
    "side": '<camera name="side" pos="0.3 -0.62 0.38" xyaxes="1 0 0 0 0.52 0.85" fovy="45"/>',
    "top": '<camera name="top" pos="0.3 0 0.85" xyaxes="0 -1 0 1 0 0" fovy="38"/>',
}
MAX_PICTURE = 512
_PHYSICS = mujoco.mjtState.mjSTATE_INTEGRATION
_TOOL = '<site name="tool"'  # where in the arm's MJCF the gripper holds things


class Scene:
    """The compiled model, its state, the arm in it, and the objects by name.

    Args:
        objects: MJCF inside the world body.
        workspace: of the arm.
        held: MJCF of what the gripper holds and cannot lose, in the frame of the 250 S's `gripper_link`;
            with another arm it is at the same place from the tool.
        sections: MJCF beside the world body, such as actuators.
        arm: makes the arm's driver from model, data and workspace.
        robot: which arm stands there.
    """

    def __init__(
        self,
        objects: str,
        workspace: Workspace,
        held: str = "",
        sections: str = "",
        arm: Callable[[mujoco.MjModel, mujoco.MjData, Workspace], WidowXArm] = WidowXArm,
        robot: ArmModel = WIDOWX_250S,
    ) -> None:
        cameras = "\n".join(CAMERAS.values())
        xml = SCENE.format(
            robot=robot.file, size=MAX_PICTURE, cameras=cameras, objects=objects, sections=sections
        )
        if held and robot != WIDOWX_250S:
            held = f'<frame pos="{robot.tool - WIDOWX_250S.tool} 0 0">{held}</frame>'
        arm_xml = robot.path.read_text().replace(_TOOL, held + _TOOL)
        try:
            self.model = mujoco.MjModel.from_xml_string(xml, {robot.file: arm_xml.encode()})
        except ValueError as error:
            raise unreadable(f"the scene of {robot.file} and the task's objects", error) from error
        self.data = mujoco.MjData(self.model)
        self.arm = arm(self.model, self.data, workspace)
        self._looks = Looks(self.model)
        self._past: mujoco.MjData | None = None
        self._renderers: dict[int, Renderer] = {}

    def reset(self) -> None:
        """Back to the state after compilation: nothing of an episode survives into the next."""
        mujoco.mj_resetData(self.model, self.data)

    def state(self) -> dict[str, Any]:
        """What physics goes on from, and the arm's setpoint (7,), as lists."""
        physics = np.empty(mujoco.mj_stateSize(self.model, _PHYSICS), np.float64)
        mujoco.mj_getState(self.model, self.data, physics, _PHYSICS)
        return {"physics": physics.tolist(), "setpoint": self.arm.setpoint.tolist()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Bring back what `state` gave, in a scene that the same seed made."""
        self.arm.go_on(np.array(state["setpoint"]))
        mujoco.mj_setState(self.model, self.data, np.array(state["physics"]), _PHYSICS)
        self.forward()

    def randomise(self, config: RandomisationConfig, rng: np.random.Generator) -> None:
        """Draw this episode's imperfections and looks, from a generator split off `rng`."""
        own = rng.spawn(1)[0] if config.signals or config.looks else rng
        late = self.arm.delay_s > 0
        self.arm.imperfect(Imperfections(config, own, self.arm.delay_s) if config.signals or late else None)
        self._looks.restore()
        if config.looks:
            self._looks.randomise(config, own)

    def forward(self) -> None:
        """Make positions and poses agree with the joints (after a reset or a step)."""
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_comPos(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)
        if self.model.nflex:
            mujoco.mj_flex(self.model, self.data)

    def position(self, body: str) -> FloatArray:
        """Position (3,) [m] of a body."""
        return self.data.body(body).xpos.copy()

    def yaw(self, body: str) -> float:
        """Rotation of a body about the vertical [rad]."""
        matrix = self.data.body(body).xmat
        return math.atan2(matrix[3], matrix[0])

    def place(self, body: str, position: npt.ArrayLike, yaw: float = 0.0, roll: float = 0.0) -> None:
        """Put a free body at rest at `position` (3,) [m], turned about x by `roll`, then about z [rad]."""
        joint = self.model.body(body).jntadr[0]
        start = int(self.model.jnt_qposadr[joint])
        self.data.qpos[start : start + 3] = position
        cos_yaw, sin_yaw, cos_roll, sin_roll = (f(a / 2) for a in (yaw, roll) for f in (math.cos, math.sin))
        self.data.qpos[start + 3 : start + 7] = (
            cos_yaw * cos_roll, cos_yaw * sin_roll, sin_yaw * sin_roll, sin_yaw * cos_roll
        )  # fmt: skip

    def move_marker(self, body: str, position: npt.ArrayLike) -> None:
        """Put a mocap body (a marker without physics) at `position` (3,) [m]."""
        self.data.mocap_pos[self.model.body(body).mocapid[0]] = position

    def render(self, camera: str, size: int) -> npt.NDArray[np.uint8]:
        """Picture (size, size, 3) of a camera.

        Raises:
            ConfigError: unknown camera. RenderingError: no off-screen OpenGL.
        """
        return self._picture(self.data, camera, size)

    def observe(self, camera: str, size: int) -> npt.NDArray[np.uint8]:
        """Picture (size, size, 3) as the camera delivers it: late, if observations are."""
        past = self.arm.past_positions()
        if past is None:
            return self.render(camera, size)
        if self._past is None:
            self._past = mujoco.MjData(self.model)
        self._past.qpos[:], self._past.mocap_pos[:], self._past.mocap_quat[:] = past
        mujoco.mj_fwdPosition(self.model, self._past)
        return self._picture(self._past, camera, size)

    def _picture(self, data: mujoco.MjData, camera: str, size: int) -> npt.NDArray[np.uint8]:
        if camera not in CAMERAS:
            raise unknown("camera", camera, CAMERAS)
        renderer = self._renderers.get(size)
        if renderer is None:
            renderer = self._renderers[size] = Renderer(self.model, size, size)
        return renderer.picture(data, camera)

    def close(self) -> None:
        """Free the OpenGL contexts."""
        while self._renderers:
            self._renderers.popitem()[1].close()


def free_box(name: str, half_size: float, mass: float, rgba: str, friction: str = "0.6 0.005 0.0001") -> str:
    """MJCF of a loose cube with edges of 2 `half_size` [m] and `mass` [kg]."""
    return (
        f'<body name="{name}"><freejoint/>'
        f'<geom name="{name}" type="box" size="{half_size} {half_size} {half_size}" mass="{mass}" '
        f'rgba="{rgba}" friction="{friction}" contype="1" conaffinity="3"/></body>'
    )


def free_cylinder(
    name: str, radius: float, half_height: float, mass: float, rgba: str, friction: str = "0.6 0.005 0.0001"
) -> str:
    """MJCF of a loose upright cylinder of `radius` and 2 `half_height` [m] and `mass` [kg]."""
    return (
        f'<body name="{name}"><freejoint/>'
        f'<geom name="{name}" type="cylinder" size="{radius} {half_height}" mass="{mass}" '
        f'rgba="{rgba}" friction="{friction}" contype="1" conaffinity="3"/></body>'
    )


def marker(name: str, kind: str, size: str, rgba: str, **attributes: Any) -> str:
    """MJCF of a coloured shape that nothing collides with."""
    extra = " ".join(f'{key}="{value}"' for key, value in attributes.items())
    return (
        f'<body name="{name}" mocap="true"><geom type="{kind}" size="{size}" rgba="{rgba}" '
        f'contype="0" conaffinity="0" {extra}/></body>'
    )
