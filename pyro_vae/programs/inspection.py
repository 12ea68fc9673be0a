"""The latents and covariates of a model, and the labels that it observes."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import torch
from numpy.typing import ArrayLike
from pyro import poutine

from ..conditionals import Conditional
from ..data.arrays import as_floats, as_named
from ..errors import UserError, first_line_of
from .calling import accepts_argument, as_keyword_program, parameters_of
from .contexts import eval_mode, fork_rng
from .interfaces import GuideInterface, ModelInterface, conditional_of, interface_of
from .modules import device_of, dtype_of, pair_device
from .sites import is_data, is_latent, sites_in

Example = Mapping[str, Any] | torch.Tensor | ArrayLike  # a batch: x, or arrays by name


def covariates_of(model: object) -> dict[str, tuple[int, ...]]:
    """`{name: event shape}` of a model's covariates."""
    covariates = interface_of(model, ModelInterface).covariates
    return {name: tuple(shape) for name, shape in covariates.items()}


def samples_by_itself(model: object) -> bool:
    """Whether a model needs no more than a size, or the covariates that it declares, to be sampled."""
    own = set(parameters_of(model)) - {"x", "y", "c", "index", "size", *covariates_of(model)}
    return accepts_argument(model, "size") and not own


def ignores_missing(model: object) -> bool:
    """Whether NaN in x is a missing value to a model, so that log p(x) is of the observed entries."""
    p_x = conditional_of(model, "x")
    declared = interface_of(model, ModelInterface).ignores_missing
    return declared or (isinstance(p_x, Conditional) and p_x.family.ignores_missing)


def as_example(program: Any, example: Example | None) -> dict[str, Any] | None:
    """A batch as training passes it to a program: x alone, or arrays by name; None stays None.

    The data are called x, whatever the program calls its first argument. Arrays become tensors on
    the program's device, x and c floats of its dtype.

    Raises:
        UserError: what is no array.
    """
    if example is None:
        return None
    named = dict(example) if isinstance(example, Mapping) else {"x": example}
    first = next(iter(parameters_of(program)), None)
    if first is not None and "x" not in named and first in named:
        named = {"x": named.pop(first), **named}
    dtype, batch = dtype_of(program), {}
    for name, value in named.items():
        if value is not None and name in ("x", "c"):
            value = as_floats(value, name, dtype)
        elif not isinstance(value, torch.Tensor | int | float | str | None):
            value = as_named(value, name, dtype)
        batch[name] = value
    device = pair_device(program, batch=batch)
    return {n: v.to(device) if isinstance(v, torch.Tensor) else v for n, v in batch.items()}


def example_with_data(program: Any, example: Example | None) -> dict[str, Any] | None:
    """`as_example`, which must have the data x if it is there at all."""
    batch = as_example(program, example)
    if batch is not None and "x" not in batch:
        raise UserError("example= needs the data, {'x': x}")
    return batch


def sites_of(
    model: Any, example: Example | None = None
) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[tuple[int, ...], bool]]]:
    """`({data: shape}, {latent: (shape, is discrete)})` in the model's order, read off one run.

    Args:
        example: a batch to run it on; a model that takes `size=` needs none.

    Raises:
        UserError: there is no example, and the model does not sample by itself.
    """
    return sites_of_run(*run_on_example(model, example))


def sites_of_run(
    trace: poutine.Trace, example: Mapping[str, Any]
) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[tuple[int, ...], bool]]]:
    """`sites_of` from a run that was made already, and from what it was run on."""
    data = {k: tuple(v.shape[1:]) for k, v in example.items() if isinstance(v, torch.Tensor)}
    latents = {}
    # x is data where nothing is observed, as in a model that samples by itself
    observed = {n for n, s in sites_in(trace).items() if is_data(s)} or {"x"}
    for name, site in sites_in(trace).items():
        if name in observed and site["type"] == "sample":
            data.setdefault(name, tuple(site["fn"].event_shape))
        elif is_latent(site):
            kind = bool(site["fn"].has_enumerate_support)
            latents[name] = (tuple(site["fn"].event_shape), kind)
    return data, latents


def example_of(model: Any, example: Example | None) -> Mapping[str, Any]:
    """The example; without one, what a model that samples by itself is called with for two rows.

    Raises:
        UserError: there is no example, and the model does not sample by itself.
    """
    batch = as_example(model, example)
    if batch is not None:
        return batch
    if not accepts_argument(model, "size"):
        raise UserError("to read this model's latents, pass example={'x': a batch of data}")
    device, shapes = device_of(model), covariates_of(model).items()
    return {"size": 2, **{name: torch.zeros(2, *s, device=device) for name, s in shapes}}


def run_on_example(model: Any, example: Example | None) -> tuple[poutine.Trace, Mapping[str, Any]]:
    """A run of a model, and what it was run on; the arguments are those of `sites_of`."""
    example, device = example_of(model, example), device_of(model)
    with torch.no_grad(), eval_mode(model), fork_rng(device), pyro.validation_enabled(False):
        try:
            trace = poutine.trace(as_keyword_program(model)).get_trace(**example)
        except UserError:
            raise
        except Exception as e:  # a user's program can fail in any way
            raise UserError(
                f"the model fails on {', '.join(example)} alone ({first_line_of(e)}): "
                "example={'x': ..., ...}, a batch to run it on, may help"
            ) from e
    return trace, example


def check_one_hot(y: torch.Tensor) -> None:
    """Raise unless the rows of labels `[N, K]` are one-hot."""
    if not (((y == 0) | (y == 1)).all() and (y.sum(-1) == 1).all()):
        raise UserError(
            "y has rows that are not one-hot: one 1 and otherwise 0, or whole numbers [N]"
        )


def one_hot_labels(
    model: object, batch: Mapping[str, torch.Tensor], check: bool = True
) -> dict[str, torch.Tensor]:
    """The batch, its labels `y` as the one-hot rows that a model with a categorical y observes.

    Labels are whole numbers `[N]`, or one-hot rows `[N, K]` of any dtype. Without `check`, a GPU is
    not waited for; the labels must have been checked before.
    """
    y = batch.get("y")
    p_y = conditional_of(model, "y")
    if y is None or p_y is None:
        return dict(batch)
    (num_classes,) = p_y().event_shape
    dtype = batch["x"].dtype if "x" in batch else torch.get_default_dtype()
    if y.dim() != 1:
        if y.dim() != 2 or y.shape[1] != num_classes:
            raise UserError(
                f"labels must be whole numbers [N] or one-hot rows [N, {num_classes}] to be "
                f"observed, not of shape {list(y.shape)}"
            )
        if check:
            check_one_hot(y)
        return {**batch, "y": y.to(dtype)}
    if check and y.is_floating_point() and (y != y.round()).any():
        raise UserError("labels must be whole numbers to be observed, or one-hot rows")
    if check and (y.min() < 0 or y.max() >= num_classes):
        raise UserError(
            f"labels must lie in 0..{num_classes - 1} to be observed; "
            f"found {int(y.min())}..{int(y.max())}"
        )
    return {**batch, "y": torch.nn.functional.one_hot(y.long(), num_classes).to(dtype)}


def is_per_datum(guide: object) -> bool:
    """Whether a guide has one row of parameters per training data point, and none for other data."""
    if isinstance(guide, GuideInterface):
        return has_rows(guide.given)
    return accepts_argument(guide, "index")


def takes_index(model: object, guide: object) -> bool:
    """Whether a pair takes the numbers that the rows of a batch have among the training data."""
    return is_per_datum(guide) or accepts_argument(model, "index")


def has_rows(given: Mapping[str, Sequence[str]]) -> bool:
    """Whether one of `{latent: [parents]}` has the parent `index`: a row of parameters per data point."""
    return any("index" in parents for parents in given.values())
