"""A fully connected decoder as plain arrays, which a program without torch can evaluate."""

import math
from dataclasses import dataclass

import torch
import torch.nn as nn

from ..conditionals import Columns, Conditional
from ..conditionals.families import Family
from ..conditionals.likelihoods import (
    LOG_RATE_BOUND,
    Bernoulli,
    Binomial,
    ContinuousBernoulli,
    NegativeBinomial,
    NormalLikelihood,
    Poisson,
    StudentT,
)
from ..conditionals.missing import without_missing
from ..conditionals.networks import ACTIVATIONS, Affine, FeedForward
from ..programs.interfaces import conditional_of

#: How the mean of a likelihood follows from the network's output.
MEANS: dict[type[Family], str] = {
    Bernoulli: "sigmoid",
    Binomial: "sigmoid",
    ContinuousBernoulli: "continuous-bernoulli",
    NormalLikelihood: "identity",
    StudentT: "identity",
    Poisson: "rate",
    NegativeBinomial: "rate",
}
SERIES = 0.1  # logits below it: the mean of a continuous Bernoulli by its series
NOT_FULLY_CONNECTED = "it is not fully connected"
TOLERANCE = 1e-4  # between the arrays and the distribution that they stand for


@dataclass(frozen=True)
class DecoderArrays:
    """The mean of p(x | parents) for a fully connected decoder.

    Attributes:
        parents: `{parent: number of values}`. Their values, one after the other, are the input of
            the first layer.
        layers: `(weight [out, in], bias [out])` of every layer, the first one first.
        activation: between the layers: a key of `conditionals.networks.ACTIVATIONS`, or "" if there
            is one layer.
        mean: the map from the last layer's output to the mean: sigmoid, continuous-bernoulli,
            identity or rate (`exp(15 tanh(r / 15))`).
    """

    parents: dict[str, int]
    layers: list[tuple[torch.Tensor, torch.Tensor]]
    activation: str
    mean: str

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """The mean `[N, number of values of x]`, for the parents' values `[N, inputs]`."""
        for number, (weight, bias) in enumerate(self.layers):
            if number:
                values = ACTIVATIONS[self.activation]()(values)
            values = nn.functional.linear(values, weight.to(values), bias.to(values))
        return _mean(self.mean, values)


def _mean(name: str, raw: torch.Tensor) -> torch.Tensor:
    if name == "sigmoid":
        return raw.sigmoid()
    if name == "rate":
        return (LOG_RATE_BOUND * torch.tanh(raw / LOG_RATE_BOUND)).exp()
    if name == "continuous-bernoulli":
        near = 0.5 + raw / 12 - raw**3 / 720
        return torch.where(raw.abs() < SERIES, near, 1 / -torch.expm1(-raw) - 1 / raw)
    return raw


Layers = list[tuple[torch.Tensor, torch.Tensor]]


def decoder_arrays(model: object) -> DecoderArrays | None:
    """The decoder of a model as arrays; None if there are no such arrays.

    See `arrays_or_reason`.

    Args:
        model: one of the library's models, whose module `p_x` is p(x | parents).

    Example:
        >>> import torch, pyro_vae as pv
        >>> from pyro_vae.generate.decoder_arrays import decoder_arrays
        >>> model = pv.models.VAE((6,), latent_dim=2)
        >>> decoder, z = decoder_arrays(model), torch.randn(4, 2)
        >>> decoder.parents, torch.allclose(decoder(z), model.p_x(z=z).mean, atol=1e-6)
        ({'z': 2}, True)
    """
    arrays = arrays_or_reason(model)
    return arrays if isinstance(arrays, DecoderArrays) else None


@torch.no_grad()
def arrays_or_reason(model: object) -> DecoderArrays | str:
    """The decoder of a model as arrays, or why there are none, as a clause about the decoder.

    The arrays are compared with the distribution at random values of the parents: they must
    reproduce its mean.

    Args:
        model: as in `decoder_arrays`.

    Example:
        >>> import pyro_vae as pv
        >>> from pyro_vae.generate.decoder_arrays import arrays_or_reason
        >>> columns = pv.conditionals.Columns((("normal", 2), ("bernoulli", 1)))
        >>> arrays_or_reason(pv.models.VAE((3,), 2, columns))
        'its likelihood has columns of several kinds'
    """
    conditional = conditional_of(model, "x")
    if not isinstance(conditional, Conditional):
        return "it is part of a user-defined program"
    family = without_missing(conditional.family)
    mean = next((name for kind, name in MEANS.items() if isinstance(family, kind)), "")
    if isinstance(family, Columns):
        return "its likelihood has columns of several kinds"
    if not mean:
        return f"the mean of its likelihood, {type(family).__name__}, is no function of one output"
    head, trunk = conditional.head, conditional.trunk
    if conditional.head_index is not None:
        return f"it has a separate head for each value of {conditional.head_index}"
    if not isinstance(head, Affine):
        return NOT_FULLY_CONNECTED
    first, activation = head, ""
    layers: Layers = []
    if trunk is not None:
        fully_connected = _hidden_layers(trunk)
        if fully_connected is None:
            return NOT_FULLY_CONNECTED
        first, layers, activation = fully_connected
        layers.append(_arrays(head))
    if not first.shapes or "index" in first.shapes:
        return "it has parameters for each data point" if first.shapes else "it has no inputs"
    parents = {name: math.prod(shape) for name, shape in first.shapes.items()}
    arrays = DecoderArrays(parents, [_arrays(first), *layers], activation, mean)
    if not _reproduces(arrays, conditional, first.shapes):
        return "its layers alone do not give the mean of its distribution"
    return arrays


def _hidden_layers(trunk: nn.Module) -> tuple[Affine, Layers, str] | None:
    """`(first map, arrays of the others, activation)` of an `MLP`'s trunk; None for another."""
    if not isinstance(trunk, FeedForward) or len(trunk.images):
        return None
    rest = trunk.rest
    names = {kind: name for name, kind in ACTIVATIONS.items()}
    activations = {names.get(type(module)) for module in rest[::2]}
    layers = [_arrays(module) for module in rest[1::2] if isinstance(module, nn.Linear)]
    activation = activations.pop()
    if activations or activation is None or len(layers) != len(rest[1::2]):
        return None
    return trunk.first, layers, activation


def _arrays(module: Affine | nn.Linear) -> tuple[torch.Tensor, torch.Tensor]:
    """`(weight [out, in], bias [out])`: of an `Affine`, the maps of its parents side by side."""
    weight = module.weight if isinstance(module, nn.Linear) else _side_by_side(module)
    return weight.detach().cpu().clone(), module.bias.detach().cpu().clone()


def _side_by_side(module: Affine) -> torch.Tensor:
    return torch.cat([module.maps[name].get_parameter("weight") for name in module.shapes], 1)


def _reproduces(
    arrays: DecoderArrays, conditional: Conditional, shapes: dict[str, tuple[int, ...]]
) -> bool:
    """Whether the arrays give the mean of the distribution, at random values of the parents."""
    generator = torch.Generator().manual_seed(0)
    values = {n: torch.randn(8, *shape, generator=generator) for n, shape in shapes.items()}
    parameter = next(conditional.parameters())
    expected = conditional(**{n: v.to(parameter) for n, v in values.items()}).mean.flatten(1)
    flat = torch.cat([v.flatten(1) for v in values.values()], 1)
    return torch.allclose(arrays(flat), expected.to(flat), rtol=TOLERANCE, atol=TOLERANCE)
