"""The deadman node: a joystick's deadman and e-stop buttons, for a graph in which no person acts."""

from __future__ import annotations

from typing import Any

from sensor_msgs.msg import Joy
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from robot_rl_ros import messages
from robot_rl_ros.managed import ManagedNode, run

JOY = "joy"


class Switch:
    """Publishes whether the deadman button is held, and calls for a stop when the e-stop button goes down.

    Declares the parameters `deadman_button` and `estop_button` of its node.
    """

    def __init__(self, node: ManagedNode) -> None:
        self._deadman_button = int(node.number("deadman_button", 5))
        self._estop = Press(int(node.number("estop_button", 1)))
        self._held = node.create_publisher(Bool, messages.DEADMAN, messages.SENSOR_QOS)
        self._stop = node.create_client(Trigger, messages.ESTOP_SERVICE)

    def take(self, message: Joy) -> bool:
        """Pass on what the buttons say; whether the deadman button is held."""
        held = pressed(message, self._deadman_button)
        self._held.publish(Bool(data=held))
        if self._estop.begins(message):
            self._stop.call_async(Trigger.Request())
        return held


class Press:
    """Tells when a button goes down."""

    def __init__(self, button: int) -> None:
        self._button, self._was = button, False

    def begins(self, message: Joy) -> bool:
        was, self._was = self._was, pressed(message, self._button)
        return self._was and not was


def pressed(message: Joy, button: int) -> bool:
    """Whether a button is held; one that the joystick does not have is not."""
    return 0 <= button < len(message.buttons) and bool(message.buttons[button])


class DeadmanNode(ManagedNode):
    """Parameters: `deadman_button` (the arm moves only while it is held), `estop_button`.

    Deactivated it says nothing, and the arm does not move. `teleop` has both buttons itself.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("deadman", **kwargs)
        self._switch = Switch(self)
        self.create_subscription(Joy, JOY, self._on_joy, messages.SENSOR_QOS)
        self.autostart()

    def _on_joy(self, message: Joy) -> None:
        if self.active:
            self._switch.take(message)


def main() -> None:
    run(DeadmanNode)


if __name__ == "__main__":
    main()
