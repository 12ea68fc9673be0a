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

from ..errors import UserError, unknown, whole

ACTIVATIONS = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "elu": nn.ELU,
    "silu": nn.SiLU,
}


def _activation(name):
    if name not in ACTIVATIONS:
        raise unknown("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]()


class Table(nn.Module):
    """A row of numbers per datum, `index [B] -> [B, out]`: the map of the parent `index`."""

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
                self.maps[name] = Table(shape[0], out)
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
        layers = [_activation(activation)]
        for a, b in zip(hidden, hidden[1:], strict=False):
            layers += [nn.Linear(a, b), _activation(activation)]
        self.rest = nn.Sequential(*layers)

    def forward(self, **parents):
        for name, net in self.images.items():
            parents[name] = net(parents[name])
        return {"features": self.rest(self.first(**parents))}


class Network:
    """Base of the network descriptions, `MLP` and `Conv`.

    `build(inputs, outputs)` returns `(trunk or None, head)`; `trunk(inputs)` the trunk alone.
    """


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
        object.__setattr__(self, "hidden", tuple(self.hidden))
        _activation(self.activation)
        whole(1, hidden=self.hidden)

    def build(self, inputs, outputs):
        """`(trunk or None, head)` for `{parent: shape}` and `{parameter: shape}`.

        The head is an `Affine` map of the features, or of the parents where there is no trunk.
        """
        total = sum(math.prod(s) for s in outputs.values())
        if not self.hidden or not inputs or set(inputs) == {"index"}:
            return None, Affine(inputs, total)
        return self.trunk(inputs), Affine({"features": (self.hidden[-1],)}, total)

    def trunk(self, inputs):
        return _Trunk(inputs, self.hidden, self.activation)


class _ConvIn(nn.Module):
    """`[..., C, H, W] -> [..., out]` by strided convolutions."""

    def __init__(self, name, shape, channels, activation):
        super().__init__()
        self.name, self.shape = name, tuple(shape)
        layers, c = [], shape[0]
        for width in channels:
            layers += [nn.Conv2d(c, width, 3, stride=2, padding=1), _activation(activation)]
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

    Each output is an image `[C, H, W]`, or L numbers a pixel, `[C, H, W, L]`.
    """

    def __init__(self, features, outputs, channels, activation):
        super().__init__()
        self.outputs = outputs  # shapes, in order
        c, h, w = outputs[0][:3]
        sizes = [(_shrink(h, i), _shrink(w, i)) for i in range(len(channels), -1, -1)]
        self.planes = [c * math.prod(shape[3:]) for shape in outputs]
        widths = [*reversed(channels), sum(self.planes)]
        self.start = (widths[0], *sizes[0])
        self.first = nn.Linear(features, math.prod(self.start))
        layers = []
        for i in range(len(channels)):
            # A stride-2 layer maps n to 2n - 1 + pad; pad = 1 exactly where the size is even.
            pad = tuple(
                big - (2 * small - 1) for big, small in zip(sizes[i + 1], sizes[i], strict=True)
            )
            layers += [
                _activation(activation),
                nn.ConvTranspose2d(
                    widths[i], widths[i + 1], 3, stride=2, padding=1, output_padding=pad
                ),
            ]
        self.rest = nn.Sequential(*layers)

    def forward(self, features):
        left = features.shape[:-1]
        x = self.first(features).reshape((-1,) + self.start)
        parts = [  # a pixel's numbers are channels to the convolution: [C * L, H, W] -> [C, H, W, L]
            part.reshape((-1, shape[0], math.prod(shape[3:])) + shape[1:3])
            .movedim(2, -1)
            .flatten(1)
            for part, shape in zip(self.rest(x).split(self.planes, 1), self.outputs, strict=True)
        ]
        return torch.cat(parts, 1).reshape(left + (-1,))


def _of_pixels(outputs):
    """Whether every output is a number, or a vector of them, for each pixel of one image shape."""
    shapes = list(outputs.values())
    return all(len(s) in (3, 4) and s[:3] == shapes[0][:3] for s in shapes)


@dataclass(frozen=True)
class Conv(Network):
    """Strided convolutions where a parent is an image, transposed ones where the outputs are.

    Args:
        channels: widths of the convolutions, from the image inwards; each layer halves the side.
        hidden: widths of the fully connected layers behind them.
        activation: relu, tanh, softplus, elu or silu.
    """

    channels: tuple[int, ...] = (32, 64)
    hidden: tuple[int, ...] = (256,)
    activation: str = "relu"

    def __post_init__(self):
        object.__setattr__(self, "channels", tuple(self.channels))
        object.__setattr__(self, "hidden", tuple(self.hidden))
        _activation(self.activation)
        whole(1, channels=self.channels, hidden=self.hidden)
        if not (self.channels and self.hidden):
            raise UserError("a convolutional network needs channels and a hidden layer")

    def build(self, inputs, outputs):
        """As `MLP.build`, with convolutions at either end."""
        if not inputs or set(inputs) == {"index"}:
            return MLP((), self.activation).build(inputs, outputs)
        outputs = {name: tuple(shape) for name, shape in outputs.items()}
        if _of_pixels(outputs):
            shapes = list(outputs.values())
            head = _ConvOut(self.hidden[-1], shapes, self.channels, self.activation)
        else:
            total = sum(math.prod(s) for s in outputs.values())
            head = Affine({"features": (self.hidden[-1],)}, total)
        return self.trunk(inputs), head

    def trunk(self, inputs):
        images = {
            name: _ConvIn(name, shape, self.channels, self.activation)
            for name, shape in inputs.items()
            if len(shape) == 3
        }
        return _Trunk(inputs, self.hidden, self.activation, nn.ModuleDict(images))
