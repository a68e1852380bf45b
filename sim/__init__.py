"""Simulation: the WidowX tasks, and Meta-World and robosuite behind the same interface."""

from sim import rendering as rendering  # first: chooses the OpenGL backend before MuJoCo is imported
