"""A guide is a factorization: for each latent, in order, its parents and a family."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import pyro
import torch
import torch.nn as nn
from pyro.poutine.runtime import InferDict

from ..conditionals import (
    Conditional,
    Family,
    Normal,
    OneHotCategorical,
    RelaxedOneHotCategorical,
)
from ..conditionals.encoders import encoder_network
from ..conditionals.families import check_family
from ..conditionals.networks import NetworkLike, network_between
from ..distributions import LinearOneHotCategorical, NormalMixture
from ..errors import UserError, check_int_at_least, names
from ..models import Prior
from ..programs.calling import as_keyword_program, signature_of
from ..programs.inspection import Example, has_rows, ignores_missing, run_on_example, sites_of_run
from ..programs.interfaces import ModelInterface, conditional_of, interface_of
from .base import BaseGuide
from .checks import (
    check_discrete,
    check_factor_kind,
    check_factorization,
    check_has_image,
    check_input_scaling,
    check_mapping,
    check_support,
)


class Guide(BaseGuide):
    r"""The guide :math:`q(\text{latents} \mid x) = \prod_i q(l_i \mid \text{parents}_i)`.

    `Guide(model)` is the factorization of the model's paper. Other factorizations are declared:

        Guide(model, given={"z": []})                         # mu, sigma learned constants
        Guide(model, given={"z": ["index"]}, num_data=1000)   # per data point, not amortized
        Guide(model, given={"y": ["x"], "z": ["x", "y"]})     # y <- x; z <- x, y
        Guide(model, family={"z": MultivariateNormal()})      # full covariance
        Guide(model, family={"z": MixtureOfNormals(5)})       # a mixture; Flow("iaf"), ...

    A discrete latent that is left out is enumerated in the model. One that is named is treated as
    `discrete` says: `"enumerate"` enumerates it in the guide, `"score_function"` samples it and
    uses the score-function gradient (`ELBO(leave_one_out_baseline=True)` adds a baseline),
    `"relaxed"` samples a Gumbel-softmax. In eval mode it is always enumerated, so that reported
    numbers do not depend on the estimator used in training.

    If the prior of a latent has an encoder with the same parents and family (`VampPrior`), this
    encoder is the latent's factor.

    If the model has the likelihood `LibrarySize`, the networks see log-normalized counts x. Of other
    counts (`poisson`, `negative-binomial`, such columns of a table) an `MLP` or `ResidualMLP` sees
    log(1 + x), unless `input_scaling` has x.

    If the model ignores missing values (NaN) in x, the networks see zero in their place, after
    `input_scaling`.

    Args:
        model: a model whose `forward(size=n)` samples, from which latents, shapes and kinds are
            read; or any Pyro program, with `example=`.
        given: `{latent: [parents]}` in sampling order. Parents are data (`x`), earlier latents, or
            `index`. It replaces the whole of `model.default_guide`.
        family: `{latent: family}`. Default: `Normal()` for continuous latents.
        network: of the encoders: `MLP(...)`, `ResidualMLP(...)`, `Conv(...)` or a function that makes
            an `nn.Module`, as in `pv.conditionals.Conditional`.
        discrete: how a discrete latent of the guide is treated: `"enumerate"`, `"score_function"` or
            `"relaxed"`.
        temperature: of the relaxation (Gumbel-softmax).
        num_data: number of training data points, for the parent `index`.
        share_trunk: whether latents with the same parents share a trunk.
        input_scaling: `{parent: (mean, scale)}`: the networks see `(parent - mean) / scale`.
            Default: images `(C, H, W)` with values in [0, 1] are centered,
            `{"x": (0.5, 0.5)}`; `{}` scales nothing.
        example: x, or `{"x": x, ...}`, a batch to run the model on.

    Raises:
        UserError: a latent or parent is unknown, a parent is sampled later than its child, a
            continuous latent is left out, `index` and `num_data` are not given together, a family
            does not fit its latent, `discrete` is set without a discrete latent, a scale is not
            positive, or a `Conv` has no image to convolve.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.VAE((1, 8, 8), latent_dim=2)
        >>> pv.guides.Guide(model, family={"z": pv.conditionals.MultivariateNormal()})
        Guide(
          z <- x
          ...
        >>> guide = pv.guides.Guide(model)
        >>> guide(x=torch.zeros(5, 1, 8, 8))["z"].shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        model: Callable[..., Any],
        given: Mapping[str, Sequence[str]] | None = None,
        family: dict | None = None,
        network: NetworkLike | None = None,
        discrete: str = "enumerate",
        temperature: float = 0.5,
        num_data: int | None = None,
        share_trunk: bool = True,
        input_scaling: dict | None = None,
        example: Example | None = None,
    ) -> None:
        super().__init__()
        check_discrete(discrete)
        if given is None:
            given = interface_of(model, ModelInterface).default_guide
            if given is None:
                raise UserError("this model has no default guide: pass given={latent: [parents]}")
        check_mapping("given", given, "{'z': ['x']}")
        names(**{f"the parents of {latent!r}": parents for latent, parents in given.items()})
        family = {} if family is None else family
        check_mapping("family", family, "{'z': Normal()}")
        if num_data is not None:
            check_int_at_least(1, num_data=num_data)
            if not has_rows(given):
                raise UserError(
                    "num_data is the number of rows of the parent 'index', which no latent here has"
                )
        self.relaxation = RelaxedOneHotCategorical(temperature)
        self.discrete = discrete
        trace, batch = run_on_example(model, example)
        data, latents = sites_of_run(trace, batch)
        data = {"index": () if num_data is None else (num_data,), **data}
        shapes = {**data, **{name: shape for name, (shape, _) in latents.items()}}
        self.discrete_latents = tuple(n for n, (_, is_discrete) in latents.items() if is_discrete)
        check_factorization(given, family, data, latents, num_data)
        if discrete != "enumerate" and not set(self.discrete_latents) & set(given):
            raise UserError(
                f"discrete={discrete!r} needs a discrete latent in the guide, and this guide has none"
            )
        check_has_image(network, given, shapes)
        self.given = {latent: tuple(parents) for latent, parents in given.items()}
        if input_scaling is None:
            input_scaling = _default_input_scaling(model, given, data)
        check_input_scaling(input_scaling, shapes)
        self.input_scaling = dict(input_scaling)
        self.fills_missing = ignores_missing(model)

        self.factors = nn.ModuleDict()
        for latent, parents in self.given.items():
            if "." in latent or latent in dir(nn.ModuleDict()):
                raise UserError(
                    f"a latent of a Guide cannot be called {latent!r}: torch's modules do not take the name"
                )
            inputs = {p: shapes[p] for p in parents}
            self.factors[latent] = self._factor(
                model, latent, shapes[latent], inputs, family.get(latent), network, share_trunk
            )
        for latent, factor in self.conditionals.items():
            if latent not in self.discrete_latents:
                check_support(latent, factor, trace.nodes[latent]["fn"])

    def _factor(
        self,
        model: Callable[..., Any],
        latent: str,
        shape: tuple[int, ...],
        inputs: dict[str, tuple[int, ...]],
        family: Family | None,
        network: NetworkLike | None,
        share_trunk: bool,
    ) -> Conditional:
        """The conditional q(latent | parents), for parents of the shapes `inputs`."""
        is_discrete = latent in self.discrete_latents
        if family is None:
            family = OneHotCategorical() if is_discrete else Normal()
        check_family(family)
        prior = conditional_of(model, latent)
        if isinstance(prior, Prior):
            encoder = prior.encoder_for(inputs, family)
            if encoder is not None:
                return encoder
        same_parents = [q for n, q in self.conditionals.items() if self.given[n] == tuple(inputs)]
        trunk = same_parents[0].trunk if share_trunk and same_parents else None
        network = network_between(network, shape, *inputs.values())
        p_x = conditional_of(model, "x")
        family_of_x = p_x.family if isinstance(p_x, Conditional) else None
        network = encoder_network(family_of_x, inputs, network, "x" in self.input_scaling)
        factor = Conditional(shape, inputs, family, network, trunk=trunk)
        check_factor_kind(latent, factor, is_discrete)
        return factor

    @property
    def conditionals(self) -> dict[str, Conditional]:
        """`{latent: q(latent | parents)}`: `factors` as a typed dict."""
        return cast(dict[str, Conditional], dict(self.factors.items()))

    @property
    def program_arguments(self) -> dict[str, inspect.Parameter]:
        """What `forward` takes, parents of other names included; see `programs.calling`."""
        parameters = dict(signature_of(self.forward))
        parameters.pop("others")
        parents = {p for parents in self.given.values() for p in parents} - set(self.given)
        for name in sorted(parents - set(parameters)):
            parameters[name] = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY)
        return parameters

    def forward(
        self,
        x: torch.Tensor | None = None,
        y: torch.Tensor | None = None,
        c: torch.Tensor | None = None,
        index: torch.Tensor | None = None,
        size: int | None = None,
        parameter_offsets: Mapping[str, torch.Tensor] | None = None,
        **others: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Samples the latents that are not observed.

        Args:
            x: `[B, *x_shape]`.
            y: `[B, K]`, observed labels as one-hot vectors.
            c: `[B, *c_shape]`, covariates.
            index: `[B]`, positions in the training data.
            size: B. Default: the length of the data.
            parameter_offsets: `{latent: [B, size]}`, added to the outputs of the factors' networks.
            others: parents of other names.
        """
        values: dict[str, Any] = {"x": x, "y": y, "c": c, "index": index, **others}
        features: dict[object, dict[str, torch.Tensor]] = {}
        if size is None:
            size = next(len(v) for v in (x, c, index, y, *others.values()) if v is not None)
        with pyro.plate("data", size):
            for latent, q in self.conditionals.items():
                if values.get(latent) is not None:
                    continue  # observed
                parents = {p: values[p] for p in q.given}
                if any(v is None for v in parents.values()):
                    raise _missing_parents(latent, [p for p, v in parents.items() if v is None])
                key = latent if q.trunk is None else q.trunk
                if key not in features:
                    features[key] = q.features(**self._scaled(parents))
                offsets = None if parameter_offsets is None else parameter_offsets.get(latent)
                fn = q(features=features[key], parameter_offsets=offsets)
                infer: InferDict = {}
                if latent in self.discrete_latents:
                    if self.discrete == "enumerate" or not self.training:
                        infer = {"enumerate": "parallel"}
                    elif self.discrete == "relaxed":
                        fn = self.relaxation(q.shape, logits=fn.logits)
                elif self.training and isinstance(fn, NormalMixture) and fn.stratified:
                    fn = fn.stratified_component(self._enumerated_component(latent, fn))
                values[latent] = pyro.sample(latent, fn, infer=infer)
        return {latent: values[latent] for latent in self.factors}

    def with_parameter_offsets(
        self, batch: Mapping[str, Any], parameter_offsets: Mapping[str, torch.Tensor]
    ) -> "OffsetGuide":
        """The guide at one batch, with offsets to its networks' outputs, as a program.

        Args:
            batch: `{"x": [B, ...], ...}`.
            parameter_offsets: `{latent: [B, size]}`.
        """
        return OffsetGuide(self, batch, parameter_offsets)

    def _enumerated_component(self, latent: str, mixture: NormalMixture) -> torch.Tensor:
        """The mixture's component, enumerated in the guide; auxiliary: not in the model."""
        # `part_of` is this library's, and not in Pyro's `InferDict`
        infer: Any = {"enumerate": "parallel", "is_auxiliary": True, "part_of": latent}
        components: LinearOneHotCategorical = mixture.component_distribution()
        return pyro.sample(f"{latent}_component", components, infer=infer)

    def _scaled(self, parents: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The parents as the networks see them."""
        for name, (mean, scale) in self.input_scaling.items():
            if name in parents:
                parents[name] = (parents[name] - mean) / scale
        if self.fills_missing and "x" in parents:
            x = parents["x"]
            parents["x"] = torch.where(x.isnan(), 0.0, x)
        return parents

    def extra_repr(self) -> str:
        return "; ".join(f"{a} <- {', '.join(b) or 'nothing'}" for a, b in self.given.items())


class OffsetGuide:
    """A guide at one batch, with offsets to its networks' outputs, as a program.

    Args:
        guide: the guide.
        batch: `{"x": [B, ...], ...}`; other inputs than x come from here.
        parameter_offsets: `{latent: [B, size]}`.
    """

    def __init__(
        self,
        guide: Guide,
        batch: Mapping[str, Any],
        parameter_offsets: Mapping[str, torch.Tensor],
    ) -> None:
        self.guide, self.batch, self.parameter_offsets = guide, batch, parameter_offsets
        self.program_arguments = guide.program_arguments
        self.stands_for = guide, ""  # the layout is that of the guide; see `programs.layout`

    def __call__(self, x: torch.Tensor, **others: Any) -> dict[str, torch.Tensor]:
        inputs = {**self.batch, **others}
        inputs = {k: repeat_rows(v, len(x), 0) for k, v in inputs.items() if k != "x"}
        offsets = {k: repeat_rows(v, len(x), -2) for k, v in self.parameter_offsets.items()}
        return as_keyword_program(self.guide)(x=x, **inputs, parameter_offsets=offsets)


def _default_input_scaling(
    model: Callable[..., Any],
    given: Mapping[str, Sequence[str]],
    data: Mapping[str, Sequence[int]],
) -> dict[str, tuple[float, float]]:
    """Centers x if it is a parent and an image whose likelihood is a distribution on [0, 1]."""
    p_x = conditional_of(model, "x")
    is_parent = any("x" in parents for parents in given.values())
    if is_parent and isinstance(p_x, Conditional) and p_x.family.unit_interval:
        return {"x": (0.5, 0.5)} if len(data.get("x", ())) == 3 else {}
    return {}


def repeat_rows(value: Any, num_rows: int, dim: int) -> Any:
    """A tensor repeated along `dim` until it has `num_rows` rows; other values are unchanged."""
    if not isinstance(value, torch.Tensor) or not value.dim() or value.shape[dim] in (1, num_rows):
        return value
    return torch.cat([value] * (num_rows // value.shape[dim]), dim)


def _missing_parents(latent: str, missing: Sequence[str]) -> UserError:
    """The error for a latent whose parents were not passed."""
    listed = ", ".join(missing)
    if "index" in missing:
        return UserError(
            f"the guide's {latent!r} has a row for each training data point, and none for other data: "
            "index= takes the row numbers of training data"
        )
    if "x" in missing:
        return UserError(
            f"the guide's {latent!r} needs {listed}: a guide draws latents given data; pv.sample draws "
            "data from a model"
        )
    return UserError(
        f"the guide's {latent!r} needs {listed}: pass {listed}=, to pv.fit as {{'x': x, '{listed}': ...}}"
    )
