"""A pair whose rows have weights in the training objective."""

import torch
import torch.nn as nn
from pyro import poutine


class Weighted(nn.Module):
    """A model or guide, the log-densities of each row multiplied by the row's weight.

    Every term of a row in the objective is then multiplied by its weight, once.

    Args:
        program: a model or guide of this library.
    """

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def forward(
        self, x: torch.Tensor, weight: torch.Tensor, c: torch.Tensor | None = None
    ) -> object:
        """The program on x `[B, D]` with weights `[B]` and covariates `[B, C]`, if it has any."""
        inputs = {"x": x} if c is None else {"x": x, "c": c}
        with poutine.scale(scale=weight):
            return self.program(**inputs)
