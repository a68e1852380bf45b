"""What a success classifier asks: the instruction fulfilled against the instruction unfulfilled.

Both prompts of a pair share every word but the verdict, so that the difference of their text features
points from "not done" to "done" and nothing else. Several paraphrases are averaged, when training as
when judging.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple


class PromptPair(NamedTuple):
    """One question in two wordings; `{}` of a template stands for the instruction."""

    done: str
    not_done: str

    def about(self, instruction: str) -> PromptPair:
        """The pair of prompts that this template makes of `instruction`."""
        return PromptPair(self.done.format(instruction), self.not_done.format(instruction))


TEMPLATES: Final = (
    PromptPair("done: {}", "not done: {}"),
    PromptPair("the robot has managed to {}", "the robot has yet to {}"),
    PromptPair("the task to {} is complete", "the task to {} is incomplete"),
    PromptPair("yes, success: {}", "no, failure: {}"),
    PromptPair("a photo after the robot could {}", "a photo before the robot could {}"),
)


def normalised(instruction: str) -> str:
    """The instruction without the accidents of writing: case, outer space, a closing full stop."""
    return " ".join(instruction.lower().split()).rstrip(".")


def prompt_pairs(instruction: str, templates: Iterable[PromptPair] = TEMPLATES) -> tuple[PromptPair, ...]:
    """Every paraphrase of "is `instruction` fulfilled?"."""
    return tuple(template.about(normalised(instruction)) for template in templates)


def counterfactuals(instruction: str, instructions: Iterable[str]) -> tuple[str, ...]:
    """The other instructions: a picture that fulfils `instruction` is a negative for each of them."""
    own = normalised(instruction)
    return tuple(other for other in instructions if normalised(other) != own)
