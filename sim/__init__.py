"""Simulated WidowX tasks, adapters to Meta-World and robosuite, scripted experts, a vector environment."""

# isort: off
import sim.rendering  # noqa: F401 - chooses the OpenGL backend before anything imports mujoco

# isort: on
from sim.experts import ExpertPolicy, RandomPolicy
from sim.registry import make, register, tasks
from sim.spec import CommandFilter, SimulationError, TaskSpec
from sim.vector import ParallelVectorEnv

register()

__all__ = [
    "CommandFilter",
    "ExpertPolicy",
    "ParallelVectorEnv",
    "RandomPolicy",
    "SimulationError",
    "TaskSpec",
    "make",
    "register",
    "tasks",
]
