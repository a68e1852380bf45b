"""The camera node: any camera driver's pictures, cut and shrunk to what a policy was trained on."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image as PILImage
from sensor_msgs.msg import Image

from robot_rl.data import schema
from robot_rl.errors import ConfigError
from robot_rl_ros import messages
from robot_rl_ros.managed import ManagedNode, run
from robot_rl_ros.observing import Picture


def fitted(picture: Picture, size: int) -> Picture:
    """The middle square of a picture (H, W, 3), as (size, size, 3): each pixel the mean of what it covers."""
    height, width, _ = picture.shape
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    square = PILImage.fromarray(np.ascontiguousarray(picture[top : top + edge, left : left + edge]))
    return np.asarray(square.resize((size, size), PILImage.Resampling.BOX))


class CameraNode(ManagedNode):
    """Parameters: `camera` (publishes `camera/NAME`), `source` (topic of the driver, rgb8 or bgr8), `size`
    (edge of the pictures) [pixels]. Stamps stay the driver's."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("camera", **kwargs)
        self.size = int(self.number("size", 64))
        if self.size < 8:
            raise ConfigError(f"camera size is {self.size}; expected 8 pixels or more")
        topic = messages.camera_topic(self.text("camera", schema.DEFAULT_CAMERA))
        self._pictures = self.create_publisher(Image, topic, messages.EVENT_QOS)
        self.create_subscription(
            Image, self.text("source", "image_raw"), self._on_picture, messages.SENSOR_QOS
        )
        self.autostart()

    def _on_picture(self, message: Image) -> None:
        picture = messages.picture_from(message)
        if picture is None:
            found = f"{message.width}x{message.height} {message.encoding}"
            self.get_logger().error(f"picture is {found}; expected rgb8 or bgr8", throttle_duration_sec=5.0)
        elif self.active:
            self._pictures.publish(messages.image_message(fitted(picture, self.size), message.header.stamp))


def main() -> None:
    run(CameraNode)


if __name__ == "__main__":
    main()
