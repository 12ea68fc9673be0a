"""Give a conditional the weights of a plain network."""

from collections.abc import Iterator

import torch
from torch import nn

from ..errors import UserError
from .conditional import Conditional
from .networks import CONVOLUTION_LAYERS, Affine, FeedForward


@torch.no_grad()
def copy_linear_layers(network: nn.Module, conditional: Conditional) -> None:
    """Copy the linear layers of a plain network into a fully connected conditional, in order.

    With it a pair written by hand and a pair of this library start from the same weights.

    Args:
        network: a module with `nn.Linear` layers, e.g. `nn.Sequential(Linear, ReLU, Linear)`.
        conditional: a conditional with one parent and an `MLP` of the same widths.

    Raises:
        UserError: the layers differ in number or shape; several parents; convolutions.

    Example:
        >>> import torch, pyro_vae as pv
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> model = pv.models.VAE((3,), latent_dim=2, network=pv.conditionals.MLP(hidden=(8,)))
        >>> pv.conditionals.copy_linear_layers(net, model.p_x)
        >>> z = torch.randn(5, 2)
        >>> bool((model.p_x(z=z).base_dist.logits == net(z)).all())
        True
    """
    sources = [
        (layer.weight, layer.bias) for layer in network.modules() if isinstance(layer, nn.Linear)
    ]
    targets = list(_linear_layers(conditional))
    shapes = [[tuple(weight.shape) for weight, _ in layers] for layers in (sources, targets)]
    if shapes[0] != shapes[1]:
        raise UserError(
            f"the network has linear layers of shapes {shapes[0]}, the conditional {shapes[1]}"
        )
    if any(bias is None for _, bias in sources):
        raise UserError("every linear layer of the network needs a bias")
    for source, target in zip(sources, targets, strict=True):
        for value, parameter in zip(source, target, strict=True):
            parameter.copy_(value)


def _linear_layers(conditional: Conditional) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Weight and bias of each linear layer, from the parent to the outputs."""
    known: set[nn.Module] = set()
    for part in (conditional.trunk, conditional.head):
        if not (part is None or isinstance(part, (Affine, FeedForward))):
            raise UserError("copy_linear_layers needs a conditional whose network is an MLP")
        for layer in () if part is None else part.modules():
            if isinstance(layer, Affine):
                maps = list(layer.maps.values())
                if len(maps) != 1 or not isinstance(maps[0], nn.Linear):
                    raise UserError("copy_linear_layers needs a conditional with one parent")
                known.add(maps[0])
                yield maps[0].weight, layer.bias
            elif isinstance(layer, nn.Linear) and layer not in known:
                yield layer.weight, layer.bias
            elif isinstance(layer, CONVOLUTION_LAYERS):
                raise UserError("copy_linear_layers needs an MLP, not convolutions")
