"""Other people's simulators behind this project's environment interface, each an optional extra."""
