"""Terms of value zero that change a loss's gradient: score functions, and paths that are left out."""

from collections.abc import Sequence

import torch

from ..errors import UserError
from ..programs.interfaces import GuideInterface, interface_of
from ..programs.modules import find_modules
from ..programs.traces import Traces


def mean_of_others(values: torch.Tensor) -> torch.Tensor:
    """The mean of a data point's other particles, a baseline without bias; with S = 1, of the other data.

    Args:
        values: `[S, B]`.

    Returns:
        `[S, B]`.

    Example:
        >>> import torch
        >>> from pyro_vae.objectives.surrogates import mean_of_others
        >>> mean_of_others(torch.tensor([[1.0], [2.0], [6.0]])).flatten()
        tensor([4.0000, 3.5000, 1.5000])
    """
    dim = 0 if len(values) > 1 else 1
    others = max(values.shape[dim] - 1, 1)
    return (values.sum(dim, keepdim=True) - values) / others


def score_function(traces: Traces, signal: torch.Tensor) -> torch.Tensor | float:
    r"""Zero, with the gradient :math:`\sum \mathrm{signal}\, \nabla \log q` (REINFORCE).

    Of the guide's sites that are sampled without a reparameterized gradient; `signal [S, B]` is the
    loss to lower, less a baseline. The signal has the scale. The log-prob has neither scale nor mask:
    they do not change how the value was drawn.
    """
    surrogate: torch.Tensor | float = 0.0
    for name, site in traces.sampled.items():
        if site["fn"].has_rsample:
            continue
        log_q = site["unscaled_log_prob"]
        if log_q.dim() > traces.event_dims:
            raise UserError(
                f"{name!r} is sampled without a reparameterized gradient beneath an enumerated "
                "latent: enumerate it too"
            )
        surrogate = surrogate + ((log_q - log_q.detach()) * signal).sum()
    return surrogate


def with_fixed(term: torch.Tensor | float, tensors: Sequence[torch.Tensor]) -> torch.Tensor | float:
    r"""The same value, its gradient that of a term in which these tensors are constants.

    No program is run again. Of each tensor's derivative of the term, the part that goes through no
    later one of them is taken from the gradient: every path through any of them, once.

    Args:
        term: a 0-dim tensor, or a number.
        tensors: parameters, or values on the way to the term, each after those that it depends on.
    """
    tensors = [t for t in tensors if t.requires_grad]
    if not tensors or not isinstance(term, torch.Tensor) or not term.requires_grad:
        return term
    direct = _gradients(term, tensors)
    paths: torch.Tensor | float = 0.0
    for i in reversed(range(len(tensors))):
        tensor, gradient = tensors[i], direct[i]
        if gradient is None:
            continue
        paths = paths + (gradient.detach() * (tensor - tensor.detach())).sum()
        if i and not tensor.is_leaf:
            back = _gradients(tensor, tensors[:i], gradient)
            for j, through in enumerate(back):
                before = direct[j]
                if through is not None:
                    direct[j] = -through if before is None else before - through
    return term - paths


def _gradients(
    value: torch.Tensor, inputs: Sequence[torch.Tensor], weights: torch.Tensor | None = None
) -> list[torch.Tensor | None]:
    """Derivatives by each input, its graph kept; None where the value does not depend on it."""
    return list(
        torch.autograd.grad(value, list(inputs), weights, retain_graph=True, allow_unused=True)
    )


def borrowed_parameters(guide: object) -> list[torch.Tensor]:
    """The model's parameters that a guide reads and does not own (`PriorGuide`, `SemiAmortized`).

    They are trained for the model's bound. What fits the guide leaves them alone.
    """
    parts = find_modules(guide)
    own = {id(p) for m in parts for p in m.parameters()}
    held = find_modules(*(p for m in parts for p in interface_of(m, GuideInterface).borrowed))
    parameters = dict.fromkeys(p for m in held for p in m.parameters())
    return [p for p in parameters if id(p) not in own]
