"""The composition root: the command line, Hydra, and everything that knows every package."""
