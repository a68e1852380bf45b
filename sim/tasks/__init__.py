"""The WidowX tasks by short name."""

from sim.tasks.base import Task
from sim.tasks.maze import MazeBackTask, MazeTask
from sim.tasks.pick_place import PickPlaceTask
from sim.tasks.push import PushTask
from sim.tasks.reach import ReachTask

TASKS: dict[str, type[Task]] = {
    "maze": MazeTask,
    "maze_back": MazeBackTask,
    "pick_place": PickPlaceTask,
    "push": PushTask,
    "reach": ReachTask,
}

__all__ = ["TASKS", "MazeBackTask", "MazeTask", "PickPlaceTask", "PushTask", "ReachTask", "Task"]
