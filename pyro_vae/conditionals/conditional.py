"""`p(a | b, c, ...)`: the one part that every model and guide is built from."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn as nn

from ..distributions.one_hot import is_support
from ..errors import UserError, check_ints_at_least
from .families import Family, Normal, check_family
from .networks import NetworkLike, check_network
from .user_trunk import build_network


class Conditional(nn.Module):
    r"""A conditional distribution :math:`p(a \mid b, c, \ldots)`.

    `forward(b=..., c=...)` returns a Pyro distribution of event shape `shape`. Its batch shape is
    the broadcast of the parents' leftmost dimensions.

    * Each parent has a separate first linear map, and the maps are added. Therefore an enumerated
      one-hot `y [K, 1, K]` meets `x [B, D]` without copies of `x`.
    * Without parents, the distribution's parameters are learned constants.
    * The parent `index` (shape `(num_data,)`, value int64 `[B]`) is a table with one row per data
      point.
    * With `head_index="y"`, the one-hot parent `y` selects one of K output heads, as in
      :math:`\mu_y(w)` of the GMVAE. What the family learns without a network, each head has itself.

    Args:
        shape: event shape of `a`.
        given: `{parent: event shape}`.
        family: how the outputs of the network become a distribution. Default: `Normal()`.
        network: `MLP(...)`, `ResidualMLP(...)`, `Conv(...)`; or a function of the number of inputs,
            `lambda in_features: nn.Sequential(...)`, that makes a new module in every call. Such a
            module is the trunk; it maps the parents' values `[N, in_features]`, flat and side by
            side, to features `[N, H]`, each row by itself. An enumerated parent adds rows. This is
            checked when the module is made. Default: `MLP()`.
        head_index: the one-hot parent that selects the output head.
        trunk: a trunk to share with another conditional of the same parents.

    Raises:
        UserError: a shape, family or network is invalid, a `Conv` has no image to convolve, or a
            module fails, has another shape, or lets a row depend on the other rows.

    Example:
        >>> import torch, pyro_vae as pv
        >>> network = pv.conditionals.MLP(hidden=(16,))
        >>> q = pv.conditionals.Conditional((2,), {"x": (5,), "y": (3,)}, network=network)
        >>> x, y = torch.zeros(4, 5), torch.eye(3).unsqueeze(1)  # [B, 5], and [K, 1, K]: enumerated
        >>> q(x=x, y=y).batch_shape
        torch.Size([3, 4])
    """

    def __init__(
        self,
        shape: Sequence[int],
        given: Mapping[str, Sequence[int]] | None = None,
        family: Family | None = None,
        network: NetworkLike | None = None,
        head_index: str | None = None,
        trunk: nn.Module | None = None,
    ) -> None:
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
        parents = {name: tuple(s) for name, s in given.items()}
        self.shape, self.given = tuple(shape), tuple(parents)
        self.family = Normal() if family is None else check_family(family)
        shapes = self.family.parameter_shapes(self.shape)
        self.parameter_shapes = {name: tuple(s) for name, s in shapes.items()}
        self.head_index = head_index
        inputs = {name: s for name, s in parents.items() if name != head_index}
        outputs = self.parameter_shapes
        if head_index is not None:
            (self.num_heads,) = parents[head_index]
            outputs = {"heads": (self.num_heads * self.size,)}
        own_trunk, self.head = build_network(network, inputs, outputs, self.shape)
        self.trunk = own_trunk if trunk is None or own_trunk is None else trunk
        initial = self._initial_parameters()
        self.unconditional_parameters = nn.ParameterDict(
            {name: nn.Parameter(value) for name, value in initial.items()}
        )
        self.family_modules = nn.ModuleDict(self.family.modules(self.shape))

    def _initial_parameters(self) -> dict[str, torch.Tensor]:
        """The family's unconditional parameters; of K heads, each has its own: `[K, ...]`."""
        if self.head_index is None:
            initial = self.family.unconditional_parameters(self.shape)
            return {name: torch.as_tensor(value) for name, value in initial.items()}
        heads = [self.family.unconditional_parameters(self.shape) for _ in range(self.num_heads)]
        return {name: torch.stack([torch.as_tensor(h[name]) for h in heads]) for name in heads[0]}

    @property
    def size(self) -> int:
        """How many numbers the network supplies for one distribution."""
        return sum(math.prod(s) for s in self.parameter_shapes.values())

    def features(self, **parents: torch.Tensor) -> dict[str, torch.Tensor]:
        """The output of the trunk, which conditionals with a shared trunk have in common."""
        parents = {name: parents[name] for name in self.given if name != self.head_index}
        return parents if self.trunk is None else _compute(self.trunk, parents)

    def forward(
        self,
        features: dict[str, torch.Tensor] | None = None,
        parameter_offsets: torch.Tensor | None = None,
        **parents: torch.Tensor,
    ) -> dist.TorchDistribution:
        """The distribution, given its parents.

        Args:
            features: the output of `features(...)`, for a trunk that is evaluated once for several
                conditionals. Default: computed from the parents.
            parameter_offsets: `[..., size]`, added to the outputs of the network.
            parents: `{parent: [..., *event shape]}`.
        """
        if features is None:
            features = self.features(**parents)
        raw = _compute(self.head, features)
        raw = raw.to(next(self.head.parameters()).dtype)  # densities are never of low precision
        if self.head_index is not None:
            heads = raw.reshape(raw.shape[:-1] + (self.num_heads, self.size))
            raw = select_head(parents[self.head_index].to(heads.dtype), heads)
        if parameter_offsets is not None:
            raw = raw + parameter_offsets
        sizes = [math.prod(s) for s in self.parameter_shapes.values()]
        flat = raw.split(sizes, -1) if len(sizes) > 1 else (raw,)
        values = {
            name: value.reshape(value.shape[:-1] + shape)
            for (name, shape), value in zip(self.parameter_shapes.items(), flat, strict=True)
        }
        constants = self._constants(parents)
        return self.family(self.shape, **values, **constants, **self.family_modules)

    def _constants(self, parents: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The unconditional parameters, of K heads those of the head that is selected."""
        if self.head_index is None:
            return dict(self.unconditional_parameters)
        y = parents[self.head_index]
        constants = {}
        for name, heads in self.unconditional_parameters.items():
            selected = select_head(y.to(heads.dtype), heads.flatten(1))
            constants[name] = selected.reshape(*selected.shape[:-1], *heads.shape[1:])
        return constants


_autocast_dtype: ContextVar[torch.dtype | None] = ContextVar("autocast_dtype", default=None)


@contextmanager
def network_autocast(dtype: torch.dtype | None) -> Iterator[None]:
    """Within this context, the networks of every `Conditional` compute in `dtype` by autocast.

    Distributions, their densities and the weights keep their precision, because Pyro's enumeration
    does not support several.

    Args:
        dtype: such as `torch.bfloat16`; None leaves the networks in the dtype of their weights.

    Example:
        >>> import torch, pyro_vae as pv
        >>> q = pv.conditionals.Conditional((2,), {"x": (5,)})
        >>> with pv.conditionals.network_autocast(torch.bfloat16):
        ...     q(x=torch.zeros(4, 5)).mean.dtype
        torch.float32
    """
    token = _autocast_dtype.set(dtype)
    try:
        yield
    finally:
        _autocast_dtype.reset(token)


def _compute(network: nn.Module, inputs: dict[str, torch.Tensor]) -> Any:
    dtype = _autocast_dtype.get()
    parameter = None if dtype is None else next(network.parameters(), None)
    if parameter is None:
        return network(**inputs)
    # no cache: in a recording it would keep what is being recorded alive
    with torch.autocast(parameter.device.type, dtype, cache_enabled=False):
        return network(**inputs)


def select_head(y: torch.Tensor, heads: torch.Tensor) -> torch.Tensor:
    """`sum_k y_k heads_k` for one-hot `y [..., K]` and `heads [..., K, R]`, leftmost broadcast.

    Every one-hot vector in order, `y [K, 1, K]`, selects every head: the sum over k, whose other
    terms are zeros, is left out. Of others, einsum treats a dimension of size 1 as absent, and makes
    no tensor of size `K * B * K * R`.
    """
    added = y.dim() - heads.dim()  # dimensions that y has to the left of those of the heads
    if added >= 0 and is_support(y):
        return heads.movedim(-2, 0)[(slice(None), *(None for _ in range(added)))]
    return torch.einsum("...k,...kr->...r", y, heads)
