"""Generation: what a trained model makes up."""

import inspect

import pyro
import torch
from pyro import poutine

from ..errors import UserError, whole
from ..pair import device_of, eval_mode, one_hot_labels, seeded


def sample(model, size=64, y=None, mean=False, seed=None, site="x", **given):
    """`[size, *x_shape]` ancestral samples of a model.

    Args:
        y: a component, or one for each sample: an int, `[size]` ints, or one-hot `[size, K]`.
        mean: the likelihood's mean instead of a draw from it (a picture without pixel noise).
        seed: None takes torch's stream as it is.
        given: further values to condition on, by name.

    Raises:
        UserError: the model cannot sample by itself, or has no such component; no samples asked for.
    """
    whole(1, **{"the number of samples": size})
    target = model.forward if isinstance(model, torch.nn.Module) else model
    parameters = inspect.signature(target).parameters
    if "size" not in parameters:
        raise UserError("this model has no size= argument, so it cannot sample by itself")
    device = device_of(model, default="cpu")
    if y is not None:
        if "y" not in parameters:
            raise UserError(f"{type(model).__name__} has no y to condition on")
        given["y"] = one_hot(model, y, size, device)
    with torch.no_grad(), eval_mode(model), seeded(seed, device), pyro.validation_enabled(False):
        trace = poutine.trace(model).get_trace(size=size, **given)
    found = trace.nodes[site]
    return found["fn"].mean if mean else found["value"]


def one_hot(model, y, size, device):
    """Component numbers as the one-hot rows that the model's y takes."""
    (num_components,) = model.p_y().event_shape
    y = torch.as_tensor(y, device=device)
    if y.dim() == 2 and y.shape == (size, num_components):
        return y
    if y.is_floating_point() or y.dim() > 1 or (y.dim() == 1 and len(y) != size):
        raise UserError(
            f"y must be an int, [{size}] ints or one-hot [{size}, {num_components}]; "
            f"got {list(y.shape)} {y.dtype}"
        )
    if y.min() < 0 or y.max() >= num_components:
        raise UserError(f"the model has components 0..{num_components - 1}; y is {y.tolist()}")
    return one_hot_labels(model, {"y": y.expand(size)})["y"]
