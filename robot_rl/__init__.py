"""robot-rl: from a handful of demonstrations to a policy that keeps improving, safely."""

__version__ = "0.1.0"
