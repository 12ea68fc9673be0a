"""A pair whose rows have weights in the training objective."""

import torch
import torch.nn as nn
from pyro import poutine

from ..programs.inspection import ignores_missing


class Weighted(nn.Module):
    """A model or guide, the log-densities of each row multiplied by the row's weight.

    Every term of a row in the objective is then multiplied by its weight, once.

    Args:
        program: a model or guide of this library.
    """

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program
        self.ignores_missing = ignores_missing(program)  # whose p(x | z) is within

    def forward(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        c: torch.Tensor | None = None,
        code: torch.Tensor | None = None,
    ) -> object:
        """The program on x `[B, D]` with weights `[B]`, and its further inputs, if it has any."""
        others = {name: value for name, value in (("c", c), ("code", code)) if value is not None}
        with poutine.scale(scale=weight):
            return self.program(x=x, **others)
