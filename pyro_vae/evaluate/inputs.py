"""The inputs of a pair: one batch of named tensors, converted and checked in one place.

* `split_inputs` takes them from a split of a data set.
* `pair_inputs` makes the batch from arrays, for evaluations that only encode.
* `scored_inputs` also compares every observed value with the support of its likelihood, for
  evaluations that report log p(x) or a bound on it.
"""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from numpy.typing import ArrayLike

from ..conditionals import Conditional
from ..data import Data
from ..data.arrays import as_floats, as_named, check_finite
from ..errors import UserError
from ..guides import BaseGuide, PriorGuide
from ..programs.calling import check_program, first_argument, parameters_of
from ..programs.inspection import (
    covariates_of,
    ignores_missing,
    is_per_datum,
    one_hot_labels,
    takes_index,
)
from ..programs.interfaces import ModelInterface, conditional_of, interface_of
from ..programs.modules import dtype_of
from .support import Support

Array = torch.Tensor | ArrayLike
Batch = dict[str, torch.Tensor]
# A batch that is unpacked beside keyword options, as in `elbo(model, guide, x, seed=0, **inputs)`:
# to a type checker, each of its values may belong to any of the options.
Inputs = dict[str, Any]
PyroProgram = Callable[..., object]


def split_inputs(
    model: PyroProgram,
    guide: PyroProgram,
    data: Data,
    split: str,
    observed: str | Iterable[str] | None = None,
    fitted_split: str = "train",
    rows: slice | None = None,
) -> Inputs:
    """The inputs that a pair takes from a split of a data set, `{"x": [N, ...], ...}`.

    Args:
        split: train, valid or test.
        observed: the names of the inputs. Default: `Data.observed_names`.
        fitted_split: the split to whose data points the rows of a per-datum guide belong.
        rows: some of its rows. Default: all.

    Raises:
        UserError: no such split; a split without one of the inputs; a per-datum guide, which has
            no rows for another split.
    """
    part = data.observed_split(split, rows)
    if is_per_datum(guide) and split != fitted_split:
        raise UserError(
            "a guide with a row per training data point is evaluated on the train split alone"
        )
    check_missing(model, data)
    arrays = part.arrays()
    if takes_index(model, guide) and split == fitted_split:
        index = torch.arange(len(data.splits()[split]))
        arrays["index"] = index if rows is None else index[rows]
    observes = interface_of(model, ModelInterface).observes
    observed = (observed,) if isinstance(observed, str) else tuple(observed or ())
    return select_inputs(arrays, ("x", *data.observed_names(observes, observed)))


def check_missing(model: PyroProgram, data: Data) -> None:
    """Raise if x of a data set has missing values, and the model's likelihood needs all of them."""
    if data.missing and not ignores_missing(model):
        raise UserError(f"{data.name}: x has missing values (NaN): {_remedy_of_missing(model)}")


def _remedy_of_missing(model: PyroProgram) -> str:
    """How a model takes missing values, as error messages have it."""
    if isinstance(conditional_of(model, "x"), Conditional):
        return "likelihood=pv.conditionals.IgnoreMissing(...) scores the observed values of each data point"
    return (
        "a program that observes pv.distributions.IgnoreMissing(...) scores the observed values, and "
        "says so by an attribute, model.ignores_missing = True"
    )


def select_inputs(arrays: Mapping[str, torch.Tensor | None], names: Iterable[str]) -> Batch:
    """The arrays that a pair takes: those called `names`, and `index` if there is one.

    Raises:
        UserError: one of the names is missing.
    """
    names = tuple(names)
    for name in names:
        if arrays.get(name) is None:
            raise UserError(f"the pair observes {name!r}, which the data do not have")
    return {n: v for n, v in arrays.items() if v is not None and n in (*names, "index")}


def pair_inputs(
    model: PyroProgram,
    x: Array,
    others: Mapping[str, Array | None],
    guide: PyroProgram | None = None,
) -> Batch:
    """The batch `{name: [N, ...]}` that a pair is called with, without inputs that are None.

    x and c become floats in the dtype of the pair. Labels y become one-hot rows if the model's y
    is categorical. `data.arrays` says which arrays are accepted.

    Raises:
        UserError: a name that neither model nor guide takes; an array that is not numeric, has
            NaN, another length, or a shape that the model was not built for.
    """
    check_program("model", model)
    if guide is not None:
        check_program("guide", guide)
    given = {name: value for name, value in others.items() if value is not None}
    check_names(model, guide, given)
    dtype = dtype_of(model, guide)
    batch = {"x": as_floats(x, "x", dtype)}
    if batch["x"].dim() == 0 or len(batch["x"]) == 0:
        raise UserError("x is empty" if batch["x"].dim() else "x is a number; expected [N, ...]")
    for name, value in given.items():
        convert = as_floats if name == "c" else as_named
        batch[name] = convert(value, name, dtype)
        if len(batch[name]) != len(batch["x"]):
            raise UserError(f"{name} has {len(batch[name])} rows, x has {len(batch['x'])}")
    check_shapes(model, batch)
    for name, array in batch.items():
        missing = name == "x" and ignores_missing(model)
        check_finite(array, name, missing, _remedy_of_missing(model) if name == "x" else "")
    index = batch.get("index")
    if index is not None and (index.is_floating_point() or index.dim() != 1):
        raise UserError(f"index must be integers [N], not {index.dtype} {list(index.shape)}")
    return one_hot_labels(model, batch)


def check_shapes(model: PyroProgram, batch: Batch) -> None:
    """Raise unless the arrays of a batch have the event shapes that the model was built for."""
    shapes, p_x = covariates_of(model), conditional_of(model, "x")
    if isinstance(p_x, Conditional):
        shapes["x"] = p_x.shape
    for name, value in batch.items():
        if tuple(value.shape[1:]) != shapes.get(name, tuple(value.shape[1:])):
            shape = ", ".join(map(str, shapes[name]))
            raise UserError(
                f"{name!r} has shape {list(value.shape)}, but this model was built for [..., {shape}]"
            )


def scored_inputs(
    model: PyroProgram,
    x: Array,
    others: Mapping[str, Array | None],
    guide: PyroProgram | None = None,
    proper: bool = True,
) -> Batch:
    """`pair_inputs`, with every observed value in the support of its likelihood.

    Args:
        proper: whether p(x) must be a probability. A log-likelihood needs one. An ELBO does not:
            it is defined for gray values in a Bernoulli and with a `pyro.factor`.

    Raises:
        UserError: see `pair_inputs`; values outside the support; p(x) is not a probability.
    """
    batch = pair_inputs(model, x, others, guide)
    support = Support(model, guide, batch)
    support.check(batch)
    if proper and support.improper:
        raise UserError(support.improper.message)
    return batch


def has_proper_likelihood(
    model: PyroProgram, guide: PyroProgram, x: Array, **others: Array | None
) -> bool:
    """Whether p(x) is a probability.

    It is not for gray values in a Bernoulli, nor for a model with a `pyro.factor`: such a pair has
    an ELBO, but no log-likelihood.

    Args:
        model: the generative program.
        guide: the guide of the model.
        x: `[N, ...]`, as observed.
        others: further inputs by name (`c=`, `y=`, `index=`), each with N rows.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.VAE((6,), latent_dim=2)
        >>> pv.evaluate.has_proper_likelihood(model, pv.guides.Guide(model), torch.ones(4, 6))
        True
    """
    return why_improper(model, guide, x, **others) is None


def why_improper(
    model: PyroProgram, guide: PyroProgram, x: Array, **others: Array | None
) -> str | None:
    """Why p(x) is not a probability, in a few words; None if it is one.

    The arguments are those of `has_proper_likelihood`.
    """
    improper = Support(model, guide, pair_inputs(model, x, others, guide)).improper
    return None if improper is None else improper.reason


def check_names(model: PyroProgram, guide: PyroProgram | None, names: Iterable[str]) -> None:
    """Check that every name is an input of the model or of the guide.

    Raises:
        UserError: with the nearest known name; `size`, which has another meaning.
    """
    known = {"index"} | _input_names(model) | (set() if guide is None else _input_names(guide))
    for name in names:
        if name == "size":
            raise UserError(
                "'size' is the number of samples that a model is asked for, and no input can have "
                "this name: rename the argument and the array"
            )
        if name not in known:
            who = "the model does not take" if guide is None else "neither model nor guide takes"
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: x, {', '.join(sorted(known))}"
            raise UserError(f"{who} {name!r}; {hint}")


def check_unused(
    model: PyroProgram, guide: PyroProgram | None, unused: Iterable[str], batch: Iterable[str]
) -> None:
    """Check that no unused entry of a batch is a misspelled input which the batch lacks.

    Raises:
        UserError: with the name that was probably meant.
    """
    absent = _input_names(model) | (set() if guide is None else _input_names(guide))
    absent -= set(batch)
    check_names(model, guide, [n for n in unused if difflib.get_close_matches(n, absent, n=1)])


def accepts_entry(model: PyroProgram, guide: PyroProgram | None, name: str) -> bool:
    """Whether a pair takes an entry of a dict batch: the model or the guide names it."""
    programs = [model] if guide is None else [model, guide]
    parameters = [p for program in programs for p in parameters_of(program).values()]
    return any(p.kind == p.VAR_KEYWORD for p in parameters) or name in {
        "index",
        *(p.name for p in parameters if p.name != "size"),
    }


def _input_names(program: PyroProgram) -> set[str]:
    """The names of a program's inputs, apart from x."""
    if isinstance(program, PriorGuide):
        return set()  # those of its model
    if isinstance(program, BaseGuide):  # its signature names more
        names = {parent for parents in program.given.values() for parent in parents}
    else:
        parameters = parameters_of(program).values()
        variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        names = {p.name for p in parameters if p.kind not in variable}
    return names - {first_argument(program), "size"}
