"""The WidowX tasks by short name."""

from sim.tasks.base import Task
from sim.tasks.bin import FINE_TUNING_TASKS, PRIOR_TASKS
from sim.tasks.button import ButtonPressTask
from sim.tasks.candy import CandySpreadTask, CandySweepTask
from sim.tasks.cloth_cover import ClothCoverTask, ClothUncoverTask
from sim.tasks.cloth_fold import ClothFoldTask, ClothUnfoldTask
from sim.tasks.drawer import DrawerCloseTask, DrawerOpenTask
from sim.tasks.lift import LiftTask
from sim.tasks.maze import MazeBackTask, MazeTask
from sim.tasks.pick_place import PickPlaceTask
from sim.tasks.pot import PotToStoveTask, PotToTableTask
from sim.tasks.pot_lid import PotLidOffTask, PotLidOnTask
from sim.tasks.push import PushTask
from sim.tasks.reach import ReachTask

TASKS: dict[str, type[Task]] = {
    "button_press": ButtonPressTask,
    "candy_spread": CandySpreadTask,
    "candy_sweep": CandySweepTask,
    "cloth_cover": ClothCoverTask,
    "cloth_fold": ClothFoldTask,
    "cloth_uncover": ClothUncoverTask,
    "cloth_unfold": ClothUnfoldTask,
    "drawer_close": DrawerCloseTask,
    "drawer_open": DrawerOpenTask,
    "lift": LiftTask,
    "maze": MazeTask,
    "maze_back": MazeBackTask,
    "pick_place": PickPlaceTask,
    "pot_lid_off": PotLidOffTask,
    "pot_lid_on": PotLidOnTask,
    "pot_to_stove": PotToStoveTask,
    "pot_to_table": PotToTableTask,
    "push": PushTask,
    "reach": ReachTask,
    **FINE_TUNING_TASKS,
    **PRIOR_TASKS,
}

__all__ = ["TASKS", "MazeBackTask", "MazeTask", "PickPlaceTask", "PushTask", "ReachTask", "Task"]
