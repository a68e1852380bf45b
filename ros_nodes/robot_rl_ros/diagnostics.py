"""What the safety node tells of itself once a second, for `rqt_robot_monitor` and the like."""

from __future__ import annotations

import math

from rclpy.node import Node

from robot_rl_ros import messages

try:
    from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
except ImportError:  # an installation without them still guards
    DiagnosticArray = None


class Diagnostics:
    """Counts steps and publishes `/diagnostics`, where diagnostic_msgs is installed."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._last = math.nan
        self._gaps: list[float] = []
        self._publisher = None
        if DiagnosticArray is not None:
            self._publisher = node.create_publisher(DiagnosticArray, messages.DIAGNOSTICS, messages.EVENT_QOS)

    def stepped(self, moment: float) -> None:
        """The guard steps at `moment` of a steady clock [s]."""
        if not math.isnan(self._last):
            self._gaps.append(moment - self._last)
        self._last = moment

    def publish(self, reason: str, fault: str, trouble: str) -> None:
        """Report the last second."""
        gaps, self._gaps = self._gaps, []
        if self._publisher is None:
            return
        level = DiagnosticStatus.ERROR if fault or trouble else DiagnosticStatus.OK
        if level == DiagnosticStatus.OK and reason:
            level = DiagnosticStatus.WARN
        values = {
            "reason": reason,
            "fault": fault,
            "steps": str(len(gaps)),
            "longest_period_ms": f"{1e3 * max(gaps, default=math.nan):.1f}",
        }
        status = DiagnosticStatus(
            level=level,
            name=self._node.get_fully_qualified_name(),
            message=trouble or fault or reason or "executing requests unchanged",
            hardware_id="",
            values=[KeyValue(key=key, value=value) for key, value in values.items()],
        )
        message = DiagnosticArray(status=[status])
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)
