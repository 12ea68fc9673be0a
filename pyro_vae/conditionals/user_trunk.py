"""Trunk and head of a conditional: of a network, or of a user's `nn.Module`, which is checked."""

import math
from collections.abc import Mapping, Sequence
from weakref import WeakSet

import torch
import torch.nn as nn

from ..errors import UserError
from .networks import MLP, Affine, ModuleMaker, Network, NetworkLike, flatten_event

_in_use: WeakSet[nn.Module] = WeakSet()  # modules with parameters that are part of a conditional


def build_network(
    network: NetworkLike | None,
    inputs: Mapping[str, tuple[int, ...]],
    outputs: Mapping[str, tuple[int, ...]],
    shape: Sequence[int] = (),
) -> tuple[nn.Module | None, nn.Module]:
    """The trunk, or None, and the head, of whatever `network=` takes; see `Network.build`."""
    network = MLP() if network is None else network
    if isinstance(network, Network):
        return network.build(inputs, outputs, shape)
    return _build_user_trunk(network, inputs, outputs)


def _build_user_trunk(
    make: ModuleMaker,
    inputs: Mapping[str, tuple[int, ...]],
    outputs: Mapping[str, tuple[int, ...]],
) -> tuple[nn.Module | None, nn.Module]:
    """The trunk, or None, and the head, an `Affine` map of the module's outputs; see `Network.build`.

    Args:
        make: a function of the number of inputs, which makes the module.
        inputs, outputs: as in `Network.build`.

    Raises:
        UserError: `make` returns no module, or one that is in use; the module fails, has outputs of
            another shape than `[N, H]`, or lets a row depend on other rows.
    """
    if not inputs or set(inputs) == {"index"}:
        return MLP(()).build(inputs, outputs)
    if "index" in inputs:
        raise UserError(
            "the parent 'index' and others together need a network of this library, such as MLP(...)"
        )
    num_inputs = sum(math.prod(shape) for shape in inputs.values())
    module = make(num_inputs)
    if not isinstance(module, nn.Module):
        raise UserError(
            f"network must return an nn.Module for {num_inputs} inputs, not {type(module).__name__}"
        )
    if any(part in _in_use for part in _with_parameters(module)):
        raise UserError(
            "network must make a new module in every call: it returned layers that another "
            "conditional uses, and encoder and decoder would share their weights"
        )
    num_features = _check_module(module, num_inputs)
    _in_use.update(_with_parameters(module))
    total = sum(math.prod(shape) for shape in outputs.values())
    return _UserTrunk(module, inputs), Affine({"features": (num_features,)}, total)


def _with_parameters(module: nn.Module) -> list[nn.Module]:
    return [
        part for part in module.modules() if next(part.parameters(recurse=False), None) is not None
    ]


class _UserTrunk(nn.Module):
    """Parents -> features, by a module that maps `[N, in_features]` to `[N, H]`."""

    def __init__(self, module: nn.Module, inputs: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__()
        self.module = module
        self.shapes = {name: tuple(shape) for name, shape in inputs.items()}

    def forward(self, **parents: torch.Tensor) -> dict[str, torch.Tensor]:
        flat = [flatten_event(name, parents[name], shape) for name, shape in self.shapes.items()]
        left = torch.broadcast_shapes(*(value.shape[:-1] for value in flat))
        x = torch.cat([value.expand(*left, -1) for value in flat], -1)
        parameter = next(self.module.parameters(), None)
        x = x if parameter is None else x.to(parameter.dtype)
        features = self.module(x.reshape(math.prod(left), x.shape[-1]))
        return {"features": features.reshape(*left, features.shape[-1])}


@torch.no_grad()
def _check_module(module: nn.Module, num_inputs: int) -> int:
    """The number of features H of a module that maps `[N, num_inputs]` to `[N, H]` row by row.

    The module is in eval mode for the check: a batch normalization then has fixed statistics.
    """
    parameter = next(module.parameters(), torch.empty(0))
    generator = torch.Generator().manual_seed(0)  # torch's own stream stays as it is
    rows = torch.rand(5, num_inputs, generator=generator).to(parameter.device, parameter.dtype)
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        batches = [[0, 1, 2], [0, 1, 2], [0, 3, 4], [0]]
        same, again, others, alone = (module(rows[batch]) for batch in batches)
    except UserError:
        raise
    except Exception as e:  # whatever the user's module raises
        reason = str(e).strip().splitlines() or [type(e).__name__]
        raise UserError(
            f"the module that network made for {num_inputs} inputs fails at a batch "
            f"[N, {num_inputs}]: {reason[0][:200]}"
        ) from e
    finally:
        for part, mode in modes.items():
            part.training = mode
    for size, output in ((3, same), (1, alone)):
        is_features = isinstance(output, torch.Tensor) and output.is_floating_point()
        if not is_features or output.dim() != 2 or len(output) != size or not output.shape[1]:
            is_tensor = isinstance(output, torch.Tensor)
            what = list(output.shape) if is_tensor else type(output).__name__
            raise UserError(
                f"the module that network makes must map [N, {num_inputs}] to features [N, H], for "
                f"any N: an enumerated latent adds rows; it maps [{size}, {num_inputs}] to {what}"
            )
    if not _close(same, again):
        raise UserError("the module that network makes is random in eval mode, and must not be")
    if not _close(same[:1], others[:1]):
        raise UserError(
            "the module that network makes lets a row depend on the other rows of its batch, which "
            "enumerated latents and minibatches forbid: normalize each row, e.g. by nn.LayerNorm"
        )
    return int(same.shape[1])


def _close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-5, atol=1e-6, equal_nan=True)
