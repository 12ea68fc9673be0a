"""What an evaluator is given: the batch as the pair takes it, checked once and in one place.

`observed` makes the batch, for evaluators that only encode. `scored` checks its values against the
likelihoods in addition, for those that report log p(x) or a bound on it.
"""

import copy
import difflib
import inspect

import pyro
import torch
from pyro import poutine
from pyro.distributions import MaskedDistribution
from pyro.distributions.torch_distribution import ExpandedDistribution
from torch.distributions import Independent, constraints

from .._pyro_internals import mask_of
from ..conditionals import Conditional
from ..data.arrays import as_floats, as_named, check_finite
from ..distributions import CategoricalLevels, DiscretizedLogistic
from ..errors import UserError
from ..guides import BaseGuide, PriorGuide
from ..programs import few_rows, layout_of, trace_pair
from ..programs.calling import as_keyword_program, first_argument, parameters_of
from ..programs.contexts import eval_mode, fork_rng
from ..programs.inspection import covariates_of, one_hot_labels
from ..programs.interfaces import conditional_of
from ..programs.modules import device_of, dtype_of
from ..programs.sites import is_factor, is_random

ROWS = 1000  # a run, where supports differ between data


def observed(model, x, others, guide=None):
    """The batch `{name: tensor}` of all data that a pair is given, without what is None.

    Arrays are whatever `data.arrays` converts: x and c become floats in the pair's dtype, labels y
    one-hot rows where the model's y is categorical.

    Raises:
        UserError: names that neither model nor guide takes; arrays of no numbers, of NaN, of
            different lengths, or of a shape that the model was not built for.
    """
    others = {name: value for name, value in others.items() if value is not None}
    check_names(model, guide, others)
    dtype = dtype_of(model, guide)
    batch = {"x": as_floats(x, "x", dtype)}
    if batch["x"].dim() == 0 or len(batch["x"]) == 0:
        raise UserError("x is empty" if batch["x"].dim() else "x is a number; expected [N, ...]")
    for name, value in others.items():
        convert = as_floats if name == "c" else as_named
        batch[name] = convert(value, name, dtype)
        if len(batch[name]) != len(batch["x"]):
            raise UserError(f"{name} has {len(batch[name])} rows, x has {len(batch['x'])}")
    shapes, p_x = covariates_of(model), conditional_of(model, "x")
    if isinstance(p_x, Conditional):
        shapes["x"] = p_x.shape
    for name, value in batch.items():
        if tuple(value.shape[1:]) != shapes.get(name, tuple(value.shape[1:])):
            shape = ", ".join(map(str, shapes[name]))
            raise UserError(
                f"{name!r} has shape {list(value.shape)}, but this model was built for [..., {shape}]"
            )
        check_finite(value, name)
    index = batch.get("index")
    if index is not None and (index.is_floating_point() or index.dim() != 1):
        raise UserError(f"index must be whole numbers [N], not {index.dtype} {list(index.shape)}")
    return one_hot_labels(model, batch)


def scored(model, x, others, guide=None, proper=True):
    """`observed`, every value in its likelihood's support.

    Args:
        proper: p(x) must be a probability: an ELBO is defined without (grey values in a Bernoulli,
            a `pyro.factor`), a log-likelihood is not.

    Raises:
        UserError: see `observed`; values outside the support; no probability.
    """
    batch = observed(model, x, others, guide)
    support = Support(model, guide, batch)
    support.check(batch)
    if proper and support.improper:
        raise UserError(support.improper)
    return batch


def has_proper_likelihood(model, guide, x, **others):
    """Whether p(x) is a probability: False for grey values in a Bernoulli, and with a `pyro.factor`."""
    return not Support(model, guide, observed(model, x, others, guide)).improper


def check_names(model, guide, names):
    """Raise, with the nearest, where a name is neither the model's nor the guide's."""
    known = {"index"} | _names_of(model) | (set() if guide is None else _names_of(guide))
    for name in names:
        if name not in known:
            who = "the model does not take" if guide is None else "neither model nor guide takes"
            near = difflib.get_close_matches(name, known, n=1)
            near = f"did you mean {near[0]!r}?" if near else f"known: x, {', '.join(sorted(known))}"
            raise UserError(f"{who} {name!r}; {near}")


def _names_of(program):
    """The names of what a program takes, apart from x."""
    if isinstance(program, PriorGuide):
        return set()  # what its model takes
    if isinstance(program, BaseGuide):  # its signature names more
        names = {parent for parents in program.given.values() for parent in parents}
    else:
        parameters = parameters_of(program).values()
        variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        names = {p.name for p in parameters if p.kind not in variable}
    return names - {first_argument(program), "size"}


class Support:
    """What the likelihoods of a pair say of data, read off one run of the model on two rows.

    Where a support is the same for all data and an observed value is an array of the batch as it
    is, all values are compared with it at once, on whichever device they are. Elsewhere (a binomial
    with trials of each data point, a value that the model transforms, a mask) the model is run on all rows.

    Attributes:
        improper: why p(x) is no probability, or None.
    """

    def __init__(self, model, guide, batch):
        self.model, self.guide = model, guide
        self.device = device_of(model, guide, default=batch["x"].device)
        pair = model, PriorGuide(model) if guide is None else guide
        self.divisible = layout_of(*pair, batch).divisible
        rows = {k: v.to(self.device) for k, v in few_rows(*pair, batch, 2).items()}
        trace = self._run(rows)
        self.improper = _why_improper(trace)
        self.fixed, self.traced = {}, False
        for name, site in data_sites(trace).items():
            constraint, source = _fixed(site), _source(site["value"], rows)
            if constraint is None or source is None:
                self.traced = True
            else:
                self.fixed[name] = source, site["value"].shape[1:], constraint

    def check(self, batch):
        """Raise unless every observed value of the batch lies in its distribution's support."""
        traced = self.traced
        for source, shape, constraint in self.fixed.values():
            value = batch[source].reshape(-1, *shape)
            traced = traced or not constraint.check(value).all()
        if traced:  # or to be sure, and to say which: a support may depend on the whole batch
            for part in self._parts(batch):
                for name, site in data_sites(part).items():
                    check_support(site, name, site["value"])

    def _parts(self, batch):
        if len(batch["x"]) <= ROWS or not self.divisible:
            return [self._run(batch)]
        parts = zip(*(value.split(ROWS) for value in batch.values()), strict=True)
        return [self._run(dict(zip(batch, part, strict=True))) for part in parts]

    @torch.no_grad()
    def _run(self, batch):
        """`{name: site}` of one run of the model: alone, or with the guide if it must be."""
        batch = {name: value.to(self.device) for name, value in batch.items()}
        with (
            eval_mode(self.model, self.guide),
            fork_rng(self.device),
            pyro.validation_enabled(False),
        ):
            try:
                return poutine.trace(as_keyword_program(self.model)).get_trace(**batch).nodes
            except Exception:  # it cannot be run from its prior
                guide = PriorGuide(self.model) if self.guide is None else self.guide
                traces = trace_pair(self.model, guide, batch)
                return {**traces.model, **traces.factors}


def data_sites(sites):
    """Of `{name: site}`, those that are observed data: no deterministic values, no factors."""
    return {n: s for n, s in sites.items() if is_random(s) and s["is_observed"]}


def check_support(site, name, value):
    """Raise unless every value, but for masked ones, lies in the support of the site's distribution."""
    fn = site["fn"]
    base = _base(fn)
    if not getattr(base, "proper", True):
        return
    ok = _inside(fn, value)
    mask = site.get("mask")
    if mask is not None and mask is not True:
        mask = torch.as_tensor(mask, device=value.device)
        ok = ok | ~mask.reshape(mask.shape + (1,) * (ok.dim() - mask.dim()))
    if ok.all():
        return
    ok, value = torch.broadcast_tensors(
        ok.reshape(ok.shape + (1,) * (value.dim() - ok.dim())), value
    )
    bad = value[~ok]
    distribution = type(base).__name__
    hint = ""
    if "Bernoulli" in distribution and "Continuous" not in distribution:
        hint = (
            '; binarize="dynamic" draws binary images, likelihood="binomial" or '
            '"continuous-bernoulli" takes grey ones, "grey-bernoulli" scores them all the same'
        )
    elif distribution in ("Poisson", "NegativeBinomial"):
        hint = "; counts are whole numbers (8-bit integers are taken as grey levels, over 255)"
    elif isinstance(base, (CategoricalLevels, DiscretizedLogistic)):
        hint = f"; this likelihood has {base.levels} grey levels: set levels="
    raise UserError(
        f"{name} has values outside the support of its {distribution} likelihood ({base.support}), "
        f"e.g. {bad[0].item():.4g}{hint}"
    )


def _why_improper(sites):
    factors = [n for n, s in sites.items() if is_factor(s)]
    if factors:
        return (
            f"the model has a pyro.factor, {factors[0]!r}: what it scores is no probability of x, so "
            "it has no log-likelihood"
        )
    if not all(getattr(_base(s["fn"]), "proper", True) for s in data_sites(sites).values()):
        return (
            "grey values in a Bernoulli have a score, not a log-likelihood; "
            "binarize, or use a likelihood that fits"
        )
    return None


WRAPPERS = (Independent, MaskedDistribution, ExpandedDistribution)


def _base(fn):
    """The distribution within what only reshapes or masks it; a transformed one is its own."""
    while isinstance(fn, WRAPPERS):
        fn = fn.base_dist
    return fn


def _support(fn):
    try:
        return fn.support
    except NotImplementedError:  # a distribution that does not say is taken as one on the reals
        return constraints.real


def _inside(fn, value):
    """Whether values lie in the support, as fine as it is known: `[batch shape, part of the event]`."""
    if isinstance(fn, MaskedDistribution):
        if mask_of(fn) is False:
            return torch.ones(fn.batch_shape, dtype=torch.bool, device=value.device)
        ok = _inside(fn.base_dist, value)
        if mask_of(fn) is True:
            return ok
        mask = mask_of(fn).expand(fn.batch_shape)
        return ok | ~mask.reshape(mask.shape + (1,) * (ok.dim() - mask.dim()))
    if isinstance(fn, WRAPPERS):
        return _inside(fn.base_dist, value)
    return _support(fn).check(value)


def _fixed(site):
    """The support of a site, if it is one and the same for all data; on no device. Else None."""
    fn = site["fn"]
    if not (site.get("mask") is None or site["mask"] is True):
        return None
    while isinstance(fn, WRAPPERS):
        if isinstance(fn, MaskedDistribution):
            return None
        fn = fn.base_dist
    if not getattr(fn, "proper", True):
        return constraints.real
    return _of_numbers(_support(fn))


def _of_numbers(constraint):
    """A copy of a constraint with numbers for its tensors; None where one has several values."""
    new = copy.copy(constraint)
    for key, value in list(vars(new).items()):
        if isinstance(value, torch.Tensor):
            if any(n > 1 and step for n, step in zip(value.shape, value.stride(), strict=True)):
                return None
            setattr(new, key, value.reshape(-1)[0].item())
        elif isinstance(value, constraints.Constraint):
            part = _of_numbers(value)
            if part is None:
                return None
            setattr(new, key, part)
        elif isinstance(value, (list, tuple, dict)):
            return None
    return new


def _source(value, rows):
    """The name of the array that a site observes as it is, or reshaped; None if there is none."""
    for name, array in rows.items():
        same = value.data_ptr() == array.data_ptr() and value.numel() == array.numel()
        if same and value.is_contiguous() and len(value) == len(array) and value.dim():
            return name
    return None
