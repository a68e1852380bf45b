"""The WidowX tasks by short name."""

from sim.tasks.base import Task
from sim.tasks.pick_place import PickPlaceTask
from sim.tasks.push import PushTask
from sim.tasks.reach import ReachTask

TASKS: dict[str, type[Task]] = {"pick_place": PickPlaceTask, "push": PushTask, "reach": ReachTask}

__all__ = ["TASKS", "PickPlaceTask", "PushTask", "ReachTask", "Task"]
