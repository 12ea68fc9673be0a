"""Networks: from named parents to numbers, for any leftmost dimensions.

A network description (`MLP`, `ResidualMLP`, `Conv`) builds a *trunk* from the parents to features and
a *head* from the features to the flat outputs. Leftmost dimensions broadcast: an enumerated `y` of shape
`[K, 1, K]` and an `x` of shape `[B, 784]` meet as `[K, 1, H] + [B, H]`, so `x` is never copied K
times.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn as nn

from ..errors import UserError, check_ints_at_least, unknown_name_error

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "elu": nn.ELU,
    "silu": nn.SiLU,
}


def _check_widths(**widths: Sequence[int]) -> None:
    check_ints_at_least(1, **widths)


def _check_activation(activation: str) -> None:
    if activation not in ACTIVATIONS:
        raise unknown_name_error("activation", activation, ACTIVATIONS)


class EmbeddingTable(nn.Module):
    """One row of numbers per data point, `index [B] -> [B, out]`: the map of the parent `index`."""

    def __init__(self, num_data: int, out: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.empty(num_data, out))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.rows)

    def forward(self, index: torch.Tensor) -> torch.Tensor:
        return self.rows[index]


class Affine(nn.Module):
    """`b + sum_p W_p p`: one linear map per parent, added, so that enumerated parents broadcast.

    Without parents, these are learned constants `[out]`. The parent `index` has an
    `EmbeddingTable`.
    """

    def __init__(self, inputs: Mapping[str, tuple[int, ...]], out: int) -> None:
        super().__init__()
        self.shapes = {name: tuple(shape) for name, shape in inputs.items()}
        self.maps = nn.ModuleDict()
        for name, shape in self.shapes.items():
            if name == "index":
                self.maps[name] = EmbeddingTable(shape[0], out)
            else:
                self.maps[name] = nn.Linear(math.prod(shape), out, bias=False)
        self.bias = nn.Parameter(torch.empty(out))
        self.starts: list[tuple[slice, torch.Tensor]] = []
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """torch's default for one linear map of all parents together; zeros without parents.

        What `start_bias` has set, it sets again.
        """
        bound = self._initial_bound()
        for parameter in self._drawn_parameters():
            nn.init.uniform_(parameter, -bound, bound)
        self._start_biases()

    def start_bias(self, outputs: slice, values: torch.Tensor) -> None:
        """Start these outputs at values, also when weights are drawn anew."""
        self.starts.append((outputs, values))
        self._start_biases()

    @torch.no_grad()
    def _start_biases(self) -> None:
        for outputs, values in self.starts:
            self.bias[outputs] = values.to(self.bias)

    def is_in_initial_range(self) -> bool:
        """Whether every weight lies where `reset_parameters` may have drawn it.

        So it is before training; after it, of a map of many weights, this is very improbable.
        """
        bound = self._initial_bound()
        return all(bool((p.abs() <= bound).all()) for p in self._drawn_parameters())

    def _initial_bound(self) -> float:
        fan_in = sum(math.prod(s) for n, s in self.shapes.items() if n != "index")
        return 1 / math.sqrt(fan_in) if fan_in else 0.0

    def _drawn_parameters(self) -> list[torch.Tensor]:
        linear = [m for m in self.maps.values() if isinstance(m, nn.Linear)]
        return [self.bias, *(m.weight for m in linear)]

    def forward(self, **parents: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor = self.bias
        for name, shape in self.shapes.items():
            value = parents[name]
            if name != "index":
                value = flatten_event(name, value, shape).to(self.bias.dtype)
            total = total + self.maps[name](value)
        return total


def flatten_event(name: str, value: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """`[..., *shape]` as `[..., prod(shape)]`."""
    if tuple(value.shape[value.dim() - len(shape) :]) != shape:
        raise UserError(
            f"{name!r} has shape {list(value.shape)}, but this network was built for "
            f"[..., {', '.join(map(str, shape))}]"
        )
    return value.reshape(value.shape[: value.dim() - len(shape)] + (-1,))


class FeedForward(nn.Module):
    """Parents -> features: optional convolutions of image parents, then an MLP."""

    def __init__(
        self,
        inputs: Mapping[str, tuple[int, ...]],
        hidden: Sequence[int],
        activation: str,
        images: "Mapping[str, _ConvIn] | None" = None,
    ) -> None:
        super().__init__()
        images = images or {}
        self.images = nn.ModuleDict(images)
        flat = {n: (images[n].out,) if n in images else s for n, s in inputs.items()}
        self.first = Affine(flat, hidden[0])
        layers = [ACTIVATIONS[activation]()]
        for a, b in zip(hidden, hidden[1:], strict=False):
            layers += [nn.Linear(a, b), ACTIVATIONS[activation]()]
        self.rest = nn.Sequential(*layers)

    def forward(self, **parents: torch.Tensor) -> dict[str, torch.Tensor]:
        for name, net in self.images.items():
            parents[name] = net(parents[name])
        return {"features": self.rest(self.first(**parents))}


class Network:
    """Base of the network descriptions; a subclass defines `build`.

    Example:
        >>> import pyro_vae as pv
        >>> isinstance(pv.conditionals.MLP(), pv.conditionals.Network)
        True
    """

    def build(
        self,
        inputs: Mapping[str, tuple[int, ...]],
        outputs: Mapping[str, tuple[int, ...]],
        shape: Sequence[int] = (),
    ) -> tuple[nn.Module | None, nn.Module]:
        """The trunk and the head: two modules, the first None if there is no hidden layer.

        `trunk(**parents)` returns `{"features": [..., H]}`; `head(**features)` returns the outputs,
        flat, `[..., total]`. Without a trunk, the head takes the parents.

        Args:
            inputs: `{parent: event shape}`; `index` has the shape `(num_data,)`.
            outputs: `{parameter: shape}`.
            shape: event shape of the variable, which a convolutional network reads.
        """
        raise NotImplementedError


#: A function of the number of inputs that makes a trunk; see `user_trunk`.
ModuleMaker = Callable[[int], nn.Module]
#: What `network=` takes.
NetworkLike = Network | ModuleMaker


@dataclass(frozen=True)
class MLP(Network):
    """Fully connected layers.

    `hidden=()` is one linear map; of a one-hot parent it is a table.

    Args:
        hidden: widths of the hidden layers, e.g. [500, 500].
        activation: relu, tanh, softplus, elu or silu.

    Raises:
        UserError: a width is not an integer ≥ 1, or the activation is unknown.

    Example:
        >>> import torch, pyro_vae as pv
        >>> network = pv.conditionals.MLP(hidden=(16,), activation="tanh")
        >>> trunk, head = network.build({"x": (5,)}, {"loc": (2,), "log_scale": (2,)})
        >>> head(**trunk(x=torch.zeros(4, 5))).shape
        torch.Size([4, 4])
    """

    hidden: tuple[int, ...] = (500, 500)
    activation: str = "relu"

    def __post_init__(self) -> None:
        _check_widths(hidden=self.hidden)
        object.__setattr__(self, "hidden", tuple(self.hidden))  # hashable
        _check_activation(self.activation)

    def build(
        self,
        inputs: Mapping[str, tuple[int, ...]],
        outputs: Mapping[str, tuple[int, ...]],
        shape: Sequence[int] = (),
    ) -> tuple[nn.Module | None, nn.Module]:
        """The trunk, or None, and the head, an `Affine` map; see `Network.build`."""
        total = sum(math.prod(s) for s in outputs.values())
        if not self.hidden or not inputs or set(inputs) == {"index"}:
            return None, Affine(inputs, total)
        trunk = FeedForward(inputs, self.hidden, self.activation)
        return trunk, Affine({"features": (self.hidden[-1],)}, total)


class _ResidualBlock(nn.Module):
    """`skip(h) + W2 act(W1 act(h))`; the skip is the identity if the widths are equal."""

    def __init__(self, inputs: int, width: int, activation: str) -> None:
        super().__init__()
        act = ACTIVATIONS[activation]
        self.skip = nn.Identity() if inputs == width else nn.Linear(inputs, width, bias=False)
        self.residual = nn.Sequential(
            act(), nn.Linear(inputs, width), act(), nn.Linear(width, width)
        )

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return self.skip(h) + self.residual(h)


class _ResidualTrunk(nn.Module):
    """Parents -> features: an `Affine` map, residual blocks, and a last activation."""

    def __init__(
        self, inputs: Mapping[str, tuple[int, ...]], hidden: Sequence[int], activation: str
    ) -> None:
        super().__init__()
        self.first = Affine(inputs, hidden[0])
        widths = zip((hidden[0], *hidden), hidden, strict=False)
        self.blocks = nn.Sequential(*(_ResidualBlock(a, b, activation) for a, b in widths))
        self.last = ACTIVATIONS[activation]()

    def forward(self, **parents: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"features": self.last(self.blocks(self.first(**parents)))}


@dataclass(frozen=True)
class ResidualMLP(Network):
    """Fully connected residual blocks with pre-activation, for deeper networks than `MLP`.

    A linear map to `hidden[0]` features is followed by one block per width. A block adds
    `W2 act(W1 act(h))` to its input h, or to a linear map of h where the width changes. It has two
    layers, so three widths make a network of seven layers and the head.

    Args:
        hidden: widths of the blocks, e.g. [256, 256, 256].
        activation: relu, tanh, softplus, elu or silu.

    Raises:
        UserError: no width, a width is not an integer ≥ 1, or the activation is unknown.

    References:
        He, Zhang, Ren and Sun 2016, arXiv 1603.05027.

    Example:
        >>> import torch, pyro_vae as pv
        >>> network = pv.conditionals.ResidualMLP(hidden=(16, 16))
        >>> q = pv.conditionals.Conditional((2,), {"x": (5,)}, network=network)
        >>> q(x=torch.zeros(4, 5)).batch_shape
        torch.Size([4])
    """

    hidden: tuple[int, ...] = (256, 256)
    activation: str = "relu"

    def __post_init__(self) -> None:
        _check_widths(hidden=self.hidden)
        object.__setattr__(self, "hidden", tuple(self.hidden))  # hashable
        _check_activation(self.activation)
        if not self.hidden:
            raise UserError("a residual network needs the width of at least one block")

    def build(
        self,
        inputs: Mapping[str, tuple[int, ...]],
        outputs: Mapping[str, tuple[int, ...]],
        shape: Sequence[int] = (),
    ) -> tuple[nn.Module | None, nn.Module]:
        """The trunk, or None, and the head, an `Affine` map; see `Network.build`."""
        if not inputs or set(inputs) == {"index"}:
            return MLP((), self.activation).build(inputs, outputs)
        total = sum(math.prod(s) for s in outputs.values())
        trunk = _ResidualTrunk(inputs, self.hidden, self.activation)
        return trunk, Affine({"features": (self.hidden[-1],)}, total)


CONVOLUTIONS: dict[int, tuple[type[nn.Module], type[nn.Module]]] = {  # by spatial dimensions
    1: (nn.Conv1d, nn.ConvTranspose1d),
    2: (nn.Conv2d, nn.ConvTranspose2d),
    3: (nn.Conv3d, nn.ConvTranspose3d),
}


CONVOLUTION_LAYERS = tuple(layer for pair in CONVOLUTIONS.values() for layer in pair)


def is_image(shape: Sequence[int]) -> bool:
    """Whether a shape is `(C, L)`, `(C, H, W)` or `(C, D, H, W)`, which can be convolved."""
    return len(shape) - 1 in CONVOLUTIONS


class _ConvIn(nn.Module):
    """An image `[..., C, *sides] -> [..., out]` by strided convolutions."""

    def __init__(
        self, name: str, shape: tuple[int, ...], channels: Sequence[int], activation: str
    ) -> None:
        super().__init__()
        self.name, self.shape = name, tuple(shape)
        convolution, _ = CONVOLUTIONS[len(shape) - 1]
        layers: list[nn.Module] = []
        c = shape[0]
        for width in channels:
            layers += [convolution(c, width, 3, stride=2, padding=1), ACTIVATIONS[activation]()]
            c = width
        self.net = nn.Sequential(*layers)
        self.out = c * math.prod(_shrink(n, len(channels)) for n in shape[1:])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left = flatten_event(self.name, x, self.shape).shape[:-1]
        x = x.reshape((-1,) + self.shape).to(next(self.net.parameters()).dtype)
        return self.net(x).reshape(left + (-1,))


def _shrink(n: int, times: int) -> int:
    """The side `n` of an image after `times` convolutions of stride 2."""
    for _ in range(times):
        n = (n + 1) // 2
    return n


class _ConvOut(nn.Module):
    """features -> flat outputs by transposed convolutions.

    Args:
        features: number of features.
        shape: event shape of the variable, `(C, *sides)`.
        numbers: for each output, the numbers per pixel: the output is `[C, *sides]` or
            `[C, *sides, L]`.
        channels: widths of the convolutions, from the image inwards.
        activation: between the layers.
    """

    def __init__(
        self,
        features: int,
        shape: tuple[int, ...],
        numbers: Sequence[int],
        channels: Sequence[int],
        activation: str,
    ) -> None:
        super().__init__()
        (self.channels, *sides), self.sides = shape, tuple(shape[1:])
        _, transposed = CONVOLUTIONS[len(sides)]
        sizes = [tuple(_shrink(n, times) for n in sides) for times in range(len(channels), -1, -1)]
        self.numbers = tuple(numbers)
        widths = [*reversed(channels), self.channels * sum(numbers)]
        self.start = (widths[0], *sizes[0])
        self.first = nn.Linear(features, math.prod(self.start))
        layers: list[nn.Module] = []
        for i in range(len(channels)):
            # A stride-2 layer maps n to 2n - 1 + pad; pad = 1 exactly if the size is even.
            pad = tuple(
                big - (2 * small - 1) for big, small in zip(sizes[i + 1], sizes[i], strict=True)
            )
            layers += [
                ACTIVATIONS[activation](),
                transposed(widths[i], widths[i + 1], 3, stride=2, padding=1, output_padding=pad),
            ]
        self.rest = nn.Sequential(*layers)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
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
    """Strided convolutions of parents that are images; transposed ones if the variable is an image.

    An image is `(C, L)`, `(C, H, W)` or `(C, D, H, W)`: the convolutions have one, two or three
    dimensions, according to the shape.

    Args:
        channels: widths of the convolutions, from the image inwards; each layer halves the sides.
        hidden: widths of the fully connected layers after them.
        activation: relu, tanh, softplus, elu or silu.

    Raises:
        UserError: a width is not an integer ≥ 1, the activation is unknown, or neither the variable
            nor a parent is an image.

    Example:
        >>> import torch, pyro_vae as pv
        >>> network = pv.conditionals.Conv(channels=(4, 8), hidden=(16,))
        >>> p = pv.conditionals.Conditional((1, 8, 8), {"z": (2,)}, network=network)
        >>> p(z=torch.zeros(4, 2)).mean.shape
        torch.Size([4, 1, 8, 8])
    """

    channels: tuple[int, ...] = (32, 64)
    hidden: tuple[int, ...] = (256,)
    activation: str = "relu"

    def __post_init__(self) -> None:
        _check_widths(channels=self.channels, hidden=self.hidden)
        object.__setattr__(self, "channels", tuple(self.channels))  # hashable
        object.__setattr__(self, "hidden", tuple(self.hidden))
        _check_activation(self.activation)
        if not (self.channels and self.hidden):
            raise UserError("a convolutional network needs channels and a hidden layer")

    def build(
        self,
        inputs: Mapping[str, tuple[int, ...]],
        outputs: Mapping[str, tuple[int, ...]],
        shape: Sequence[int] = (),
    ) -> tuple[nn.Module | None, nn.Module]:
        """The trunk, or None, and the head; see `Network.build`."""
        if not inputs or set(inputs) == {"index"}:
            return MLP((), self.activation).build(inputs, outputs)
        shape = tuple(shape)
        # whether each output has a number, or a vector of numbers, per pixel
        per_pixel = is_image(shape) and all(
            tuple(s[: len(shape)]) == shape for s in outputs.values()
        )
        if not (per_pixel or any(map(is_image, inputs.values()))):
            parents = ", ".join(f"{name} {list(s)}" for name, s in inputs.items())
            raise UserError(
                "Conv needs data of shape (C, L), (C, H, W) or (C, D, H, W): it has nothing to "
                f"convolve in a variable {list(shape)} given {parents}; reshape the data or use MLP"
            )
        head: nn.Module
        if per_pixel:
            numbers = [math.prod(s[len(shape) :]) for s in outputs.values()]
            head = _ConvOut(self.hidden[-1], shape, numbers, self.channels, self.activation)
        else:
            total = sum(math.prod(s) for s in outputs.values())
            head = Affine({"features": (self.hidden[-1],)}, total)
        images = {
            name: _ConvIn(name, image, self.channels, self.activation)
            for name, image in inputs.items()
            if is_image(image)
        }
        return FeedForward(inputs, self.hidden, self.activation, images), head


def check_network(network: object) -> None:
    """Raise unless this is a network description, a maker of modules, or None for the default."""
    if network is None or isinstance(network, Network):
        return
    if isinstance(network, nn.Module):
        raise UserError(
            "network is one module, whose weights all networks would share: pass a function that "
            "makes one, e.g. network=lambda in_features: nn.Sequential(...)"
        )
    if not callable(network) or (isinstance(network, type) and issubclass(network, Network)):
        raise UserError(
            "network must be MLP(...), ResidualMLP(...), Conv(...) or a function of the number of "
            f"inputs that makes an nn.Module, not {network!r}"
        )


def network_between(network: NetworkLike | None, *shapes: Sequence[int]) -> NetworkLike | None:
    """The network for a conditional between variables of these shapes, in a pair with images.

    If none of them is an image, a `Conv` is replaced by its fully connected layers.
    """
    check_network(network)
    if isinstance(network, Conv) and not any(map(is_image, shapes)):
        return MLP(network.hidden, network.activation)
    return network
