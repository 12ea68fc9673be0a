"""Networks: from named parents to numbers, for any leftmost dimensions.

A network description (`MLP`, `Conv`) builds a *trunk* from the parents to features and a *head* from
the features to the flat outputs. Both take and return `{name: tensor}` or tensors whose leftmost
dimensions broadcast: an enumerated `y` of shape `[K, 1, K]` and an `x` of shape `[B, 784]` meet as
`[K, 1, H] + [B, H]`, so `x` is never copied K times.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn as nn

from ..errors import UserError, check_ints_at_least, unknown_name_error

ACTIVATIONS = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "elu": nn.ELU,
    "silu": nn.SiLU,
}


def _check_description(network, *widths):
    """Widths as tuples, so that a description can be hashed; a known activation."""
    for name in widths:
        check_ints_at_least(1, **{name: getattr(network, name)})
        object.__setattr__(network, name, tuple(getattr(network, name)))
    if network.activation not in ACTIVATIONS:
        raise unknown_name_error("activation", network.activation, ACTIVATIONS)


class EmbeddingTable(nn.Module):
    """A row of numbers per data point, `index [B] -> [B, out]`: the map of the parent `index`."""

    def __init__(self, num_data, out):
        super().__init__()
        self.rows = nn.Parameter(torch.empty(num_data, out))
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.zeros_(self.rows)

    def forward(self, index):
        return self.rows[index]


class Affine(nn.Module):
    """`b + sum_p W_p p`: one linear map per parent, added, so that enumerated parents broadcast.

    No parents: learned constants `[out]`. The parent `index`: a `Table`.
    """

    def __init__(self, inputs, out):
        super().__init__()
        self.shapes = {name: tuple(shape) for name, shape in inputs.items()}
        self.maps = nn.ModuleDict()
        for name, shape in self.shapes.items():
            if name == "index":
                self.maps[name] = EmbeddingTable(shape[0], out)
            else:
                self.maps[name] = nn.Linear(math.prod(shape), out, bias=False)
        self.bias = nn.Parameter(torch.empty(out))
        self.reset_parameters()

    def reset_parameters(self):
        """torch's default for one linear map of all parents together; zeros where there is none."""
        fan_in = sum(math.prod(s) for n, s in self.shapes.items() if n != "index")
        bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
        for parameter in (self.bias, *(m.weight for n, m in self.maps.items() if n != "index")):
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, **parents):
        total = self.bias
        for name, shape in self.shapes.items():
            value = parents[name]
            if name != "index":
                value = _flatten(name, value, shape).to(self.bias.dtype)
            total = total + self.maps[name](value)
        return total


def _flatten(name, value, shape):
    if tuple(value.shape[value.dim() - len(shape) :]) != shape:
        raise UserError(
            f"{name!r} has shape {list(value.shape)}, but this network was built for "
            f"[..., {', '.join(map(str, shape))}]"
        )
    return value.reshape(value.shape[: value.dim() - len(shape)] + (-1,))


class _Trunk(nn.Module):
    """Parents -> features: optional convolutions on image parents, then an MLP."""

    def __init__(self, inputs, hidden, activation, images=None):
        super().__init__()
        self.images = images or nn.ModuleDict()
        inputs = {n: (self.images[n].out,) if n in self.images else s for n, s in inputs.items()}
        self.first = Affine(inputs, hidden[0])
        layers = [ACTIVATIONS[activation]()]
        for a, b in zip(hidden, hidden[1:], strict=False):
            layers += [nn.Linear(a, b), ACTIVATIONS[activation]()]
        self.rest = nn.Sequential(*layers)

    def forward(self, **parents):
        for name, net in self.images.items():
            parents[name] = net(parents[name])
        return {"features": self.rest(self.first(**parents))}


class Network:
    """Base class of network descriptions. Subclasses are frozen dataclasses, as `MLP` and `Conv` are."""

    def build(
        self,
        inputs: dict[str, tuple[int, ...]],
        outputs: dict[str, tuple[int, ...]],
        shape: tuple[int, ...] = (),
    ) -> tuple[nn.Module | None, nn.Module]:
        """The modules `(trunk or None, head)` of one conditional distribution.

        Args:
            inputs: `{parent: event shape}`.
            outputs: `{parameter: shape}`, of the distribution.
            shape: event shape of the variable.

        Returns:
            A trunk from `{parent: tensor}` to `{"features": tensor}`, and a head from these features to
            all outputs, flat and in order. Without a trunk the head takes the parents. Both take any
            leftmost dimensions.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class MLP(Network):
    """Fully connected layers. `hidden=()` is one linear map: a table, where the parent is one-hot.

    Args:
        hidden: widths of the hidden layers, e.g. [500, 500].
        activation: relu, tanh, softplus, elu or silu.
    """

    hidden: tuple[int, ...] = (500, 500)
    activation: str = "relu"

    def __post_init__(self):
        _check_description(self, "hidden")

    def build(self, inputs, outputs, shape=()):
        """`(trunk or None, head)` for `{parent: shape}` and `{parameter: shape}`.

        The head is an `Affine` map of the features, or of the parents where there is no trunk.
        `shape` is the variable's own, which a convolutional network reads.
        """
        total = sum(math.prod(s) for s in outputs.values())
        if not self.hidden or not inputs or set(inputs) == {"index"}:
            return None, Affine(inputs, total)
        return self.trunk(inputs), Affine({"features": (self.hidden[-1],)}, total)

    def trunk(self, inputs):
        return _Trunk(inputs, self.hidden, self.activation)


CONVOLUTIONS = {  # by the number of dimensions beside the channels
    1: (nn.Conv1d, nn.ConvTranspose1d),
    2: (nn.Conv2d, nn.ConvTranspose2d),
    3: (nn.Conv3d, nn.ConvTranspose3d),
}


def is_image(shape):
    """Whether a shape is `(C, L)`, `(C, H, W)` or `(C, D, H, W)`, which convolutions are for."""
    return len(shape) - 1 in CONVOLUTIONS


class _ConvIn(nn.Module):
    """An image `[..., C, *sides] -> [..., out]` by strided convolutions."""

    def __init__(self, name, shape, channels, activation):
        super().__init__()
        self.name, self.shape = name, tuple(shape)
        convolution, _ = CONVOLUTIONS[len(shape) - 1]
        layers, c = [], shape[0]
        for width in channels:
            layers += [convolution(c, width, 3, stride=2, padding=1), ACTIVATIONS[activation]()]
            c = width
        self.net = nn.Sequential(*layers)
        self.out = c * math.prod(_shrink(n, len(channels)) for n in shape[1:])

    def forward(self, x):
        left = _flatten(self.name, x, self.shape).shape[:-1]
        x = x.reshape((-1,) + self.shape).to(self.net[0].weight.dtype)
        return self.net(x).reshape(left + (-1,))


def _shrink(n, times):
    for _ in range(times):
        n = (n + 1) // 2
    return n


class _ConvOut(nn.Module):
    """features -> flat outputs by transposed convolutions.

    Args:
        shape: of the variable, `(C, *sides)`.
        numbers: for each output, how many numbers a pixel has: the output is `[C, *sides]` or
            `[C, *sides, L]`.
    """

    def __init__(self, features, shape, numbers, channels, activation):
        super().__init__()
        (self.channels, *sides), self.sides = shape, tuple(shape[1:])
        _, transposed = CONVOLUTIONS[len(sides)]
        sizes = [tuple(_shrink(n, times) for n in sides) for times in range(len(channels), -1, -1)]
        self.numbers = numbers
        widths = [*reversed(channels), self.channels * sum(numbers)]
        self.start = (widths[0], *sizes[0])
        self.first = nn.Linear(features, math.prod(self.start))
        layers = []
        for i in range(len(channels)):
            # A stride-2 layer maps n to 2n - 1 + pad; pad = 1 exactly where the size is even.
            pad = tuple(
                big - (2 * small - 1) for big, small in zip(sizes[i + 1], sizes[i], strict=True)
            )
            layers += [
                ACTIVATIONS[activation](),
                transposed(widths[i], widths[i + 1], 3, stride=2, padding=1, output_padding=pad),
            ]
        self.rest = nn.Sequential(*layers)

    def forward(self, features):
        left = features.shape[:-1]
        x = self.first(features).reshape((-1,) + self.start)
        planes = self.rest(x).split([self.channels * n for n in self.numbers], 1)
        parts = [  # a pixel's numbers are channels to the convolution: [C * L, ...] -> [C, ..., L]
            part.reshape((-1, self.channels, n) + self.sides).movedim(2, -1).flatten(1)
            for part, n in zip(planes, self.numbers, strict=True)
        ]
        return torch.cat(parts, 1).reshape(left + (-1,))


@dataclass(frozen=True)
class Conv(Network):
    """Strided convolutions where a parent is an image, transposed ones where the variable is.

    An image is `(C, L)`, `(C, H, W)` or `(C, D, H, W)`: the convolutions have one, two or three
    dimensions, by the shape.

    Args:
        channels: widths of the convolutions, from the image inwards; each layer halves the sides.
        hidden: widths of the fully connected layers behind them.
        activation: relu, tanh, softplus, elu or silu.

    Raises:
        UserError: neither the variable nor a parent is an image.
    """

    channels: tuple[int, ...] = (32, 64)
    hidden: tuple[int, ...] = (256,)
    activation: str = "relu"

    def __post_init__(self):
        _check_description(self, "channels", "hidden")
        if not (self.channels and self.hidden):
            raise UserError("a convolutional network needs channels and a hidden layer")

    def build(self, inputs, outputs, shape=()):
        """As `MLP.build`, with convolutions at either end."""
        if not inputs or set(inputs) == {"index"}:
            return MLP((), self.activation).build(inputs, outputs)
        shape = tuple(shape)
        # of every pixel a number, or a vector of them
        of_pixels = is_image(shape) and all(
            tuple(s[: len(shape)]) == shape for s in outputs.values()
        )
        if not (of_pixels or any(map(is_image, inputs.values()))):
            parents = ", ".join(f"{name} {list(s)}" for name, s in inputs.items())
            raise UserError(
                "Conv needs data of shape (C, L), (C, H, W) or (C, D, H, W): it has nothing to "
                f"convolve in a variable {list(shape)} given {parents}; reshape the data or use MLP"
            )
        if of_pixels:
            numbers = [math.prod(s[len(shape) :]) for s in outputs.values()]
            head = _ConvOut(self.hidden[-1], shape, numbers, self.channels, self.activation)
        else:
            total = sum(math.prod(s) for s in outputs.values())
            head = Affine({"features": (self.hidden[-1],)}, total)
        return self.trunk(inputs), head

    def trunk(self, inputs):
        images = {
            name: _ConvIn(name, shape, self.channels, self.activation)
            for name, shape in inputs.items()
            if is_image(shape)
        }
        return _Trunk(inputs, self.hidden, self.activation, nn.ModuleDict(images))


def check_network(network):
    """Raise unless this is a description of a network, or None for the default."""
    if not (network is None or isinstance(network, Network)):
        raise UserError(f"network must be MLP(...) or Conv(...), not {network!r}")


def network_between(network, *shapes):
    """The network for a conditional of variables of these shapes, inside a pair that has images.

    Where none of them is an image, a `Conv`'s fully connected layers.
    """
    check_network(network)
    if isinstance(network, Conv) and not any(map(is_image, shapes)):
        return MLP(network.hidden, network.activation)
    return network
