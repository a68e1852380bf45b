"""Keeping a graph on the loopback interface."""

from __future__ import annotations

from pathlib import Path

# ROS_LOCALHOST_ONLY and ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST restrict whom the nodes find, but their
# sockets still listen on every interface. Only an allow-list of interfaces changes that.
# Linux gives a socket 208 KB by default, less than one 640 x 480 picture: of two such streams at 30 Hz 47 %
# arrive, with this all of them. Fast DDS takes what `net.core.rmem_max` allows where that is less.
BUFFER_BYTES = 4 * 1024 * 1024
PROFILE = f"""<?xml version="1.0" encoding="UTF-8"?>
<dds xmlns="http://www.eprosima.com">
  <profiles>
    <transport_descriptors>
      <transport_descriptor>
        <transport_id>loopback</transport_id>
        <type>UDPv4</type>
        <sendBufferSize>{BUFFER_BYTES}</sendBufferSize>
        <receiveBufferSize>{BUFFER_BYTES}</receiveBufferSize>
        <interfaceWhiteList><address>127.0.0.1</address></interfaceWhiteList>
      </transport_descriptor>
    </transport_descriptors>
    <participant profile_name="loopback" is_default_profile="true">
      <rtps>
        <userTransports><transport_id>loopback</transport_id></userTransports>
        <useBuiltinTransports>false</useBuiltinTransports>
      </rtps>
    </participant>
  </profiles>
</dds>
"""


def loopback_environment(folder: Path, domain_id: int) -> dict[str, str]:
    """Variables under which Fast DDS listens on 127.0.0.1 alone; its profile is written to `folder`."""
    profile = folder / "loopback.xml"
    profile.write_text(PROFILE)
    return {
        "ROS_DOMAIN_ID": str(domain_id),
        "RMW_IMPLEMENTATION": "rmw_fastrtps_cpp",
        "FASTRTPS_DEFAULT_PROFILES_FILE": str(profile),
        "FASTDDS_DEFAULT_PROFILES_FILE": str(profile),
        # They would add sockets on every interface beside the profile's.
        "ROS_LOCALHOST_ONLY": "",
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET",
    }
