"""Episodes, their schema, storage and sampling. Imports nothing else of the stack."""

from robot_rl.data.episode import Episode, EpisodeMetadata

__all__ = ["Episode", "EpisodeMetadata"]
