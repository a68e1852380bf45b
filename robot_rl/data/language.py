"""Instructions as vectors, without a model to download: hashed words and pairs of words.

Feature hashing (Weinberger et al., arXiv 0902.2206). Two wordings share the coordinates of the words that
they share, and different instructions are nearly orthogonal; what a paraphrase means it does not know.
A text encoder's vectors, stored as `schema.LANGUAGE` in the episodes, take its place.
"""

from __future__ import annotations

import hashlib
import itertools
import re

import numpy as np
import numpy.typing as npt

from robot_rl.errors import ConfigError


def embed(instruction: str, size: int) -> npt.NDArray[np.float32]:
    """The unit vector (size,) of an instruction; zeros if it has no words. Case and punctuation do not count.

    Each word and each pair of neighbours adds +1 or -1 at a coordinate; both follow from its SHA-256.

    Raises:
        ConfigError: `size` is below 1.
    """
    if size < 1:
        raise ConfigError(f"language vector has size {size}; expected at least 1")
    words = re.findall(r"\w+", instruction.lower())
    vector = np.zeros(size, np.float32)
    for term in [*words, *map(" ".join, itertools.pairwise(words))]:
        number = int.from_bytes(hashlib.sha256(term.encode()).digest()[:8], "big")
        vector[(number >> 1) % size] += 1 if number & 1 else -1
    norm = float(np.linalg.norm(vector))
    return vector / norm if norm else vector
