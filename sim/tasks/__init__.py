"""The WidowX tasks by short name."""

from sim.tasks.base import Task
from sim.tasks.push import PushTask

TASKS: dict[str, type[Task]] = {"push": PushTask}

__all__ = ["TASKS", "PushTask", "Task"]
