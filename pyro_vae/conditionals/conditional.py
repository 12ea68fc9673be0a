"""`p(a | b, c, ...)`: the one part that every model and guide is built from."""

import math
from collections.abc import Mapping
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn as nn

from ..errors import UserError, check_ints_at_least
from .families import Normal, check_family
from .networks import MLP, check_network


class Conditional(nn.Module):
    r"""A conditional distribution :math:`p(a \mid b, c, \ldots)`.

    `forward(b=..., c=...)` returns a Pyro distribution of event shape `shape`, whose batch shape is
    the broadcast of the parents' leftmost dimensions.

    * Each parent has its own first linear map; the maps are added. An enumerated one-hot
      `y [K, 1, K]` thus meets `x [B, D]` without copies of `x`.
    * No parents: the distribution's parameters are learned constants.
    * The parent `index` (shape `(num_data,)`, value int64 `[B]`): a table with a row per data point.
    * `select="y"`: the one-hot parent `y` picks one of K output heads instead, as in the GMVAE
      paper's :math:`\mu_y(w)`.

    Args:
        shape: event shape of `a`.
        given: `{parent: event shape}`.
        family: how outputs become a distribution (`Normal()`, `Bernoulli()`, ...).
        network: `MLP(...)` or `Conv(...)`.
        trunk: a trunk to share with another conditional of the same parents.

    Raises:
        UserError: a shape, family or network that is none; a `Conv` with nothing to convolve.
    """

    def __init__(self, shape, given=None, family=None, network=None, select=None, trunk=None):
        super().__init__()
        given = {} if given is None else given
        if not isinstance(given, Mapping):
            raise UserError(
                f"given must be {{parent: shape}}, such as {{'z': (2,)}}, not {given!r}"
            )
        check_ints_at_least(
            1, shape=shape, **{f"the shape of {name}": s for name, s in given.items()}
        )
        check_network(network)
        given = {name: tuple(s) for name, s in given.items()}
        self.shape, self.given = tuple(shape), tuple(given)
        self.family = Normal() if family is None else check_family(family)
        self.outputs = {k: tuple(s) for k, s in self.family.outputs(self.shape).items()}
        self.select = select
        outputs = self.outputs
        inputs = {name: s for name, s in given.items() if name != select}
        if select is not None:
            (self.num_heads,) = given[select]
            outputs = {"heads": (self.num_heads * self.size,)}
        network = MLP() if network is None else network
        own_trunk, self.head = network.build(inputs, outputs, self.shape)
        self.trunk = own_trunk if trunk is None or own_trunk is None else trunk
        self.free = nn.ParameterDict(
            {k: nn.Parameter(torch.as_tensor(v)) for k, v in self.family.free(self.shape).items()}
        )
        self.parts = nn.ModuleDict(self.family.modules(self.shape))

    @property
    def size(self):
        """How many numbers the network supplies for one distribution."""
        return sum(math.prod(s) for s in self.outputs.values())

    def features(self, **parents):
        """What the trunk makes of the parents; conditionals that share a trunk share this."""
        parents = {name: parents[name] for name in self.given if name != self.select}
        return parents if self.trunk is None else _compute(self.trunk, parents)

    def forward(self, features=None, shift=None, **parents):
        """The distribution, given the parents (or the features that a shared trunk made).

        `shift [..., size]` is added to the numbers that the network supplies.
        """
        if features is None:
            features = self.features(**parents)
        raw = _compute(self.head, features)
        raw = raw.to(next(self.head.parameters()).dtype)  # densities are never of low precision
        if self.select is not None:
            heads = raw.reshape(raw.shape[:-1] + (self.num_heads, self.size))
            raw = select_head(parents[self.select].to(heads.dtype), heads)
        if shift is not None:
            raw = raw + shift
        sizes = [math.prod(s) for s in self.outputs.values()]
        parts = raw.split(sizes, -1) if len(sizes) > 1 else (raw,)
        values = {
            name: part.reshape(part.shape[:-1] + shape)
            for (name, shape), part in zip(self.outputs.items(), parts, strict=True)
        }
        return self.family(self.shape, **values, **self.free, **self.parts)


_low = ContextVar("the dtype that networks compute in", default=None)


@contextmanager
def network_autocast(dtype):
    """Within, the networks of every `Conditional` compute in `dtype` by autocast; None: in their own.

    Distributions, their densities and the weights keep their precision: Pyro's enumeration cannot
    do with several.
    """
    token = _low.set(dtype)
    try:
        yield
    finally:
        _low.reset(token)


def _compute(network, parents):
    if _low.get() is None:
        return network(**parents)
    device = next(network.parameters()).device.type
    # no cache: in a recording it would hold on to what is being recorded
    with torch.autocast(device, _low.get(), cache_enabled=False):
        return network(**parents)


def select_head(y, heads):
    """`sum_k y_k heads_k` for one-hot `y [..., K]` and `heads [..., K, R]`, leftmost broadcast.

    einsum treats a dimension of size 1 as absent, so an enumerated `y [K, 1, K]` meets
    `heads [B, K, R]` in one matrix product and nothing of size `K * B * K * R` is made.
    """
    return torch.einsum("...k,...kr->...r", y, heads)
