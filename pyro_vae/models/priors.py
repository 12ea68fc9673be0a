"""Priors without parents: any module whose `forward()` returns a distribution will do."""

import pyro.distributions as dist
import torch
import torch.nn as nn

from ..conditionals.families import LinearOneHotCategorical


class StandardNormal(nn.Module):
    """`N(0, I)` over a vector of `size`."""

    def __init__(self, size):
        super().__init__()
        self.register_buffer("zero", torch.zeros(size), persistent=False)

    def forward(self):
        return dist.Normal(self.zero, torch.ones_like(self.zero)).to_event(1)


class Components(nn.Module):
    r"""A one-hot categorical over K components, uniform or with learned weights :math:`\pi`."""

    def __init__(self, num_components, learned=False):
        super().__init__()
        logits = torch.zeros(num_components)
        if learned:
            self.logits = nn.Parameter(logits)
        else:
            self.register_buffer("logits", logits)

    def forward(self):
        return LinearOneHotCategorical(logits=self.logits)
