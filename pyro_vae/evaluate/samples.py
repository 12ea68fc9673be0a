"""Generation: what a trained model makes up."""

import inspect

import pyro
import torch
from pyro import poutine

from ..errors import UserError, whole
from ..pair import AtMean, device_of, eval_mode, one_hot_labels, seeded


def sample(model, size=64, y=None, mean=False, seed=None, site="x", **given):
    """`[size, *x_shape]` ancestral samples of a model.

    Args:
        y: a component, or one for each sample: an int, `[size]` ints, or one-hot `[size, K]`.
        mean: the likelihood's mean instead of a draw from it (a picture without pixel noise).
        seed: None takes torch's stream as it is.
        given: further values to condition on, by name. The covariates of a conditional model are
            such: `c` of shape `[...]`, the same for all, or `[size, ...]`.

    Raises:
        UserError: the model cannot sample by itself, has no such component, or lacks covariates; no
            samples asked for.
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
    given |= covariates(model, size, given, device)
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


def covariates(model, size, given, device):
    """A conditional model's covariates `{name: [size, ...]}`, from one for all or one for each."""
    result = {}
    for name, shape in getattr(model, "covariates", {}).items():
        value = given.get(name)
        wanted = ", ".join(map(str, shape))
        if value is None:
            raise UserError(f"the model is conditional: pass {name}= of shape [{wanted}]")
        value = torch.as_tensor(value, device=device)
        if tuple(value.shape) not in (shape, (size, *shape)):
            raise UserError(
                f"{name} must have shape [{wanted}] or [{size}, {wanted}], not {list(value.shape)}"
            )
        result[name] = value.expand(size, *shape)
    return result


def predict(model, c, site="x"):
    r"""`[N, *x_shape]`: a conditional model's one answer, :math:`E[x | c, z = E[z | c]]`.

    Sohn, Lee and Yan's (2015) deterministic prediction; for binary x they take the likelier value,
    `predict(model, c) > 0.5`.

    Args:
        c: covariates `[N, ...]`.

    Raises:
        UserError: a latent is discrete, and so has no mean to put it at.
    """
    device = device_of(model, default="cpu")
    given = covariates(model, len(c), {"c": c}, device)
    with torch.no_grad(), eval_mode(model), seeded(0, device), pyro.validation_enabled(False):
        trace = poutine.trace(AtMean()(model)).get_trace(size=len(c), **given)
    for name, found in trace.nodes.items():
        if found["type"] == "sample" and name != site and found["fn"].has_enumerate_support:
            raise UserError(f"{name!r} is discrete: a prediction at its mean is not defined")
    return trace.nodes[site]["fn"].mean.to(c.device)
