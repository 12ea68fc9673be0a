"""A guide is a factorization: for each latent, in order, its parents and a family."""

import inspect
from collections.abc import Mapping

import pyro
import torch
import torch.nn as nn

from ..conditionals import (
    Conditional,
    Conv,
    Network,
    Normal,
    OneHotCategorical,
    RelaxedOneHotCategorical,
)
from ..conditionals.families import check_family
from ..conditionals.mixtures import NormalMixture
from ..conditionals.networks import is_image, network_between
from ..errors import UserError, check_int_at_least, names, unknown_name_error
from ..models import Prior
from ..programs.calling import as_keyword_program, as_wrapper
from ..programs.inspection import sites_of
from ..programs.interfaces import ModelInterface, conditional_of, interface_of
from .base import BaseGuide

DISCRETE = ("enumerate", "score_function", "relaxed")


class Guide(BaseGuide):
    r"""The guide :math:`q(\text{latents} \mid x) = \prod_i q(l_i \mid \text{parents}_i)`.

    `Guide(model)` is the factorization of the model's paper. Another one is declared:

        Guide(model, given={"z": []})                         # mu, sigma learned constants
        Guide(model, given={"z": ["index"]}, num_data=1000)   # per data point, not amortized
        Guide(model, given={"y": ["x"], "z": ["x", "y"]})     # y <- x; z <- x, y
        Guide(model, family={"z": MultivariateNormal()})      # full covariance
        Guide(model, family={"z": MixtureOfNormals(5)})       # a mixture; Flow("iaf"), ...

    A discrete latent that is left out is enumerated in the model. One that is named is treated as
    `discrete` says: `"enumerate"` sums it in the guide, `"score_function"` samples it (score-function
    gradient; `ELBO(leave_one_out_baseline=True)` gives it a baseline), `"relaxed"` samples a Gumbel-softmax.
    In eval mode it is always enumerated, so that what is reported does not depend on the estimator
    that trained it.

    A latent whose prior owns an encoder of the same parents and family (`VampPrior`) has that
    encoder as its factor.

    Args:
        model: a model whose `forward(size=n)` samples, from which latents, shapes and kinds are
            read; or any Pyro program, with `example={"x": x}` to run it on.
        given: `{latent: [parents]}` in sampling order; parents are data (`x`), earlier latents, or
            `index`. It replaces `model.default_guide` whole.
        family: `{latent: family}`; `Normal()` for continuous latents where not said.
        network: `MLP(...)` or `Conv(...)` for the encoders.
        discrete: `"enumerate"`, `"score_function"` or `"relaxed"`.
        temperature: of the relaxation.
        num_data: rows of the tables that the parent `index` makes.
        share_trunk: latents with the same parents share a trunk (the paper's encoder with two heads).
        input_scaling: `{parent: (mean, scale)}`: the networks see `(parent - mean) / scale`. Pixels
            in [0, 1] train better centerd, as `{"x": (0.5, 0.5)}`.

    Raises:
        UserError: an unknown latent or parent, a parent sampled later than its child, a continuous
            latent left out, `index` without `num_data`, a family of another kind or shape than the
            latent, a scaling by zero, a `Conv` where no parent is an image.
    """

    def __init__(
        self,
        model,
        given: dict | None = None,
        family: dict | None = None,
        network: Network | None = None,
        discrete: str = "enumerate",
        temperature: float = 0.5,
        num_data: int | None = None,
        share_trunk: bool = True,
        input_scaling: dict | None = None,
        example: dict | None = None,
    ):
        super().__init__()
        if discrete not in DISCRETE:
            raise unknown_name_error("treatment of discrete latents", discrete, DISCRETE)
        if given is None:
            given = interface_of(model, ModelInterface).default_guide
            if given is None:
                raise UserError("this model has no default guide: pass given={latent: [parents]}")
        _check_mapping("given", given, "{'z': ['x']}")
        names(**{f"the parents of {latent!r}": parents for latent, parents in given.items()})
        family = {} if family is None else family
        _check_mapping("family", family, "{'z': Normal()}")
        input_scaling = {} if input_scaling is None else input_scaling
        _check_mapping("input_scaling", input_scaling, "{'x': (0.5, 0.5)}")
        if num_data is not None:
            check_int_at_least(1, num_data=num_data)
        self.relaxation = RelaxedOneHotCategorical(temperature)
        self.discrete = discrete
        data, latents = sites_of(model, example)
        data = {"index": (), **data}
        shapes = {**data, **{name: shape for name, (shape, _) in latents.items()}}
        self.discrete_latents = tuple(n for n, (_, is_discrete) in latents.items() if is_discrete)
        _check(given, family, data, latents, num_data)
        _check_convolved(network, given, shapes)
        self.given = {latent: tuple(parents) for latent, parents in given.items()}
        self.input_scaling = dict(input_scaling)
        for parent, scaling in self.input_scaling.items():
            if parent not in shapes or parent == "index":
                raise unknown_name_error(
                    "parent in input_scaling", parent, sorted(set(shapes) - {"index"})
                )
            _check_scaling(parent, scaling, shapes[parent])

        self.factors = nn.ModuleDict()
        for latent, parents in self.given.items():
            inputs = {p: (num_data,) if p == "index" else shapes[p] for p in parents}
            is_discrete = latent in self.discrete_latents
            fam = family.get(latent)
            if fam is None:
                fam = OneHotCategorical() if is_discrete else Normal()
            check_family(fam)
            net = network_between(network, shapes[latent], *inputs.values())
            sharing_factor = next(
                (q for n, q in self.factors.items() if self.given[n] == tuple(parents)), None
            )
            trunk = sharing_factor.trunk if share_trunk and sharing_factor is not None else None
            prior = conditional_of(model, latent)
            owned = prior.encoder_for(inputs, fam) if isinstance(prior, Prior) else None
            if owned is None:
                owned = Conditional(shapes[latent], inputs, fam, net, trunk=trunk)
                _check_kind(latent, owned, is_discrete)
            self.factors[latent] = owned

    @property
    def program_arguments(self):
        """What `forward` takes, parents of other names included, as `pair.parameters_of` has it."""
        parameters = dict(inspect.signature(self.forward).parameters)
        parameters.pop("others")
        parents = {p for parents in self.given.values() for p in parents} - set(self.given)
        for name in sorted(parents - set(parameters)):
            parameters[name] = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY)
        return parameters

    def forward(
        self, x=None, y=None, c=None, index=None, size=None, parameter_offsets=None, **others
    ):
        """Samples the latents; `shifts` are numbers to add to the factors' own, `{latent: [B, size]}`."""
        values = {"x": x, "y": y, "c": c, "index": index, **others}
        features = {}
        if size is None:
            size = next(len(v) for v in (x, c, index, y, *others.values()) if v is not None)
        with pyro.plate("data", size):
            for latent, q in self.factors.items():
                if values.get(latent) is not None:
                    continue  # observed
                parents = {p: values[p] for p in q.given}
                if any(v is None for v in parents.values()):
                    missing = ", ".join(p for p, v in parents.items() if v is None)
                    raise UserError(f"the guide's {latent!r} needs {missing}: pass {missing}=")
                key = latent if q.trunk is None else q.trunk
                if key not in features:
                    features[key] = q.features(**self._seen(parents))
                fn = q(features=features[key], shift=(parameter_offsets or {}).get(latent))
                infer = {}
                if latent in self.discrete_latents:
                    if self.discrete == "enumerate" or not self.training:
                        infer = {"enumerate": "parallel"}
                    elif self.discrete == "relaxed":
                        fn = self.relaxation(q.shape, logits=fn.logits)
                elif self.training and isinstance(fn, NormalMixture) and fn.stratified:
                    fn = fn.stratum(self._component(latent, fn))
                values[latent] = pyro.sample(latent, fn, infer=infer)
        return {latent: values[latent] for latent in self.factors}

    def shifted(self, batch, parameter_offsets):
        """The guide at one batch, its factors' numbers moved by `shifts`, as a program for `run`."""

        def program(x, **others):
            given = {**batch, **others}
            given = {k: repeat_rows(v, len(x), 0) for k, v in given.items() if k != "x"}
            moved = {k: repeat_rows(v, len(x), -2) for k, v in parameter_offsets.items()}
            return as_keyword_program(self)(x=x, **given, parameter_offsets=moved)

        program.program_arguments = self.program_arguments
        return as_wrapper(program, self)

    def _component(self, latent, mixture):
        """The mixture's component, summed in the guide: no latent of the model, so auxiliary."""
        infer = {"enumerate": "parallel", "is_auxiliary": True, "part_of": latent}
        return pyro.sample(f"{latent}_component", mixture.components(), infer=infer)

    def _seen(self, parents):
        """The parents as the networks see them."""
        for name, (mean, scale) in self.input_scaling.items():
            if name in parents:
                parents[name] = (parents[name] - mean) / scale
        return parents

    def extra_repr(self):
        return "; ".join(f"{a} <- {', '.join(b) or 'nothing'}" for a, b in self.given.items())


def _check_mapping(name, value, example):
    if not isinstance(value, Mapping):
        raise UserError(f"{name} must be a dict such as {example}, not {value!r}")


def _check_convolved(network, given, shapes):
    """A `Conv` must find something to convolve in one of the factors at least."""
    parents = {p: shapes[p] for ps in given.values() for p in ps if p != "index"}
    met = [*parents.values(), *(shapes[latent] for latent in given)]
    if isinstance(network, Conv) and parents and not any(map(is_image, met)):
        listed = ", ".join(f"{name} {list(shape)}" for name, shape in parents.items())
        raise UserError(
            "Conv needs data of shape (C, L), (C, H, W) or (C, D, H, W), and the guide's parents "
            f"are {listed}: reshape the data or use MLP"
        )


def _check_scaling(parent, scaling, shape):
    """`(mean, scale)` must be finite, the scale positive, both of a shape that suits the parent."""
    if not (isinstance(scaling, (tuple, list)) and len(scaling) == 2):
        raise UserError(f"input_scaling takes (mean, scale) for {parent!r}, not {scaling!r}")
    mean, scale = (torch.as_tensor(v) for v in scaling)
    for name, value in (("mean", mean), ("scale", scale)):
        try:
            fits = torch.broadcast_shapes(value.shape, shape) == shape
        except RuntimeError:
            fits = False
        if not fits:
            raise UserError(
                f"the {name} in input_scaling has shape {list(value.shape)}, {parent!r} {list(shape)}"
            )
        if not torch.isfinite(value).all():
            raise UserError(f"the {name} of {parent!r} in input_scaling is not finite")
    if (scale <= 0).any():
        raise UserError(
            f"the scale of {parent!r} in input_scaling must be positive; where a value is constant, "
            "and its standard deviation zero, use 1"
        )


def _check_kind(latent, factor, is_discrete):
    """The factor's distribution must be discrete where the latent is, and of its shape."""
    shape, family = factor.shape, factor.family
    if is_discrete and not shape and isinstance(family, OneHotCategorical):
        raise UserError(
            f"{latent!r} is discrete and no one-hot vector, which this guide's classes are: "
            "write the guide as a Pyro program"
        )
    device = next(factor.parameters()).device
    zeros = {name: torch.zeros(s, device=device) for name, s in factor.outputs.items()}
    with torch.no_grad(), pyro.validation_enabled(False):
        fn = family(shape, **zeros, **factor.free, **factor.parts)
    if tuple(fn.event_shape) != shape:
        raise UserError(
            f"{latent!r} has shape {list(shape)}, its family {family!r} {list(fn.event_shape)}"
        )
    if is_discrete != (fn.has_enumerate_support or fn.support.is_discrete):
        if is_discrete:
            rule = "discrete: its family must be too, as OneHotCategorical() is"
        else:
            rule = "continuous: its family must be too, as Normal() is"
        raise UserError(f"{latent!r} is {rule}, not {family!r}")


def _check(given, family, data, latents, num_data):
    seen = set(data)
    for latent, parents in given.items():
        if latent not in latents:
            raise unknown_name_error("latent", latent, latents)
        for parent in parents:
            if parent not in seen:
                if parent in latents and parent in given:
                    raise UserError(
                        f"{latent!r} has the parent {parent!r}, which is sampled after it: "
                        "declare the latents in sampling order"
                    )
                if parent in latents:
                    raise UserError(
                        f"{latent!r} has the parent {parent!r}, which the guide leaves out"
                    )
                raise unknown_name_error("parent", parent, [*data, *latents])
            if parent == "index" and num_data is None:
                raise UserError(
                    "the parent 'index' is a table with a row per data point: pass num_data="
                )
        seen.add(latent)
    for latent, (_, is_discrete) in latents.items():
        if latent not in given and not is_discrete:
            raise UserError(
                f"the guide leaves out {latent!r}, which is continuous: name its parents"
            )
    for latent in family:
        if latent not in given:
            raise unknown_name_error("latent in family", latent, given)


def repeat_rows(value, rows, dim):
    """A tensor with `rows` rows at `dim`: those that it has, as often as draws are rows."""
    if not isinstance(value, torch.Tensor) or not value.dim() or value.shape[dim] in (1, rows):
        return value
    return torch.cat([value] * (rows // value.shape[dim]), dim)
