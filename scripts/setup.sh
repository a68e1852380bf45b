#!/usr/bin/env bash
# Makes .venv with everything pinned, and off-screen OpenGL. Safe to run again.
set -euo pipefail
cd "$(dirname "$0")/.."

PYTHON=${PYTHON:-python3}
VENV=.venv
APT_PACKAGES="libegl1 libosmesa6"

fail() { echo "setup: $*" >&2; exit 1; }

command -v "$PYTHON" >/dev/null || fail "no $PYTHON found: install Python 3.11 or newer, or make PYTHON=/path/to/python"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$("$PYTHON" --version) is too old: Python 3.11 or newer is needed (make PYTHON=/path/to/python3.11)"

if [ ! -x "$VENV/bin/python" ]; then
    "$PYTHON" -m venv "$VENV" || fail "could not make $VENV: sudo apt-get install -y python3-venv"
fi

echo "setup: installing packages into $VENV (a few minutes the first time)"
pip() { "$VENV/bin/python" -m pip --disable-pip-version-check "$@"; }
pip install --quiet -c constraints.txt -e '.[dev,metaworld,robosuite,play,formats,rosbag,rerun,onnx,vlm,cluster]'
# robosuite pins mink, which needs numpy < 2; only one humanoid's inverse kinematics uses it.
pip install --quiet --no-deps -c constraints.txt robosuite

# ROS 2 from wheels, unless a ROS installation is sourced: the two must not mix.
if [ "$(uname -sm)" = "Linux x86_64" ] && [ -z "${AMENT_PREFIX_PATH:-}" ] && [ -f requirements-ros.txt ]; then
    pip install --quiet --no-deps --require-hashes -r requirements-ros.txt ||
        echo "setup: no ROS 2 wheels for this Python; everything but bringup works" >&2
fi

draws() {
    "$VENV/bin/python" - <<'PYTHON' >/dev/null 2>&1
import sim.rendering, mujoco
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><geom size='1'/></worldbody></mujoco>")
sim.rendering.Renderer(model, 16, 16).render()
PYTHON
}

if ! draws; then
    install="apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $APT_PACKAGES"
    if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
        echo "setup: installing $APT_PACKAGES"
        sh -c "$install"
    elif command -v apt-get >/dev/null && sudo -n true 2>/dev/null; then
        echo "setup: installing $APT_PACKAGES"
        sudo sh -c "$install"
    else
        fail "no off-screen OpenGL. Run: sudo apt-get update && sudo apt-get install -y $APT_PACKAGES, then make again"
    fi
    draws || fail "still no off-screen OpenGL: unset MUJOCO_GL, or see $VENV/bin/robot-rl doctor"
fi

touch "$VENV/.ready"
echo "setup: done"
