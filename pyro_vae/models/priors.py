"""Priors without parents: any module whose `forward()` returns a distribution can be one."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyro.distributions as dist
import torch
import torch.nn as nn

from .._torch_internals import with_separate_modules
from ..conditionals import (
    MLP,
    Conditional,
    Family,
    Network,
    Normal,
)
from ..conditionals.flows import FLOWS
from ..distributions import FlowDistribution, LinearOneHotCategorical, affine_flow
from ..errors import UserError, check_int_at_least, check_ints_at_least, unknown_name_error
from ..programs.contexts import eval_mode, fork_rng
from ..programs.interfaces import ModelInterface, conditional_of, interface_of


class Prior(nn.Module):
    """Base of the priors of a continuous latent; `forward()` returns the distribution.

    Example:
        >>> import pyro.distributions as dist
        >>> import torch, pyro_vae as pv
        >>> class Uniform(pv.models.Prior):
        ...     def forward(self):
        ...         return dist.Uniform(torch.zeros(2), torch.ones(2)).to_event(1)
        >>> pv.models.VAE((6,), latent_dim=2, prior=Uniform())(size=4).shape
        torch.Size([4, 6])
    """

    def encoder_for(
        self, inputs: Mapping[str, tuple[int, ...]], family: Family
    ) -> Conditional | None:
        """The factor that `Guide` takes for this latent, instead of a new one. Default: None.

        Args:
            inputs: `{parent: event shape}` of the factor.
            family: of the factor.
        """
        return None


class StandardNormalPrior(Prior):
    """The standard normal distribution over vectors.

    Args:
        size: D.

    Example:
        >>> import pyro_vae as pv
        >>> pv.models.StandardNormalPrior(2)().mean
        tensor([0., 0.])
    """

    zero: torch.Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        check_int_at_least(1, size=size)
        self.register_buffer("zero", torch.zeros(size), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        """The distribution."""
        return dist.Normal(self.zero, torch.ones_like(self.zero)).to_event(1)


#: Enumerated one-hot vectors of K components are a table of K squared numbers, here 400 MB.
MAX_COMPONENTS = 10_000


def check_num_components(num_components: int) -> None:
    """Raise unless K is an integer from 1, and small enough for memory."""
    check_int_at_least(1, num_components=num_components)
    if num_components > MAX_COMPONENTS:
        raise UserError(
            f"{num_components} components are too many for the memory that each takes: at most "
            f"{MAX_COMPONENTS} are possible"
        )


class CategoricalPrior(nn.Module):
    r"""A one-hot categorical over K components, uniform or with learned weights :math:`\pi`.

    Args:
        num_components: number of components, K.
        learned: whether the weights are learned; they start uniform.

    Example:
        >>> import pyro_vae as pv
        >>> pv.models.CategoricalPrior(4)().probs
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """

    logits: torch.Tensor

    def __init__(self, num_components: int, learned: bool = False) -> None:
        super().__init__()
        check_num_components(num_components)
        logits = torch.zeros(num_components)
        if learned:
            self.logits = nn.Parameter(logits)
        else:
            self.register_buffer("logits", logits)

    def forward(self) -> LinearOneHotCategorical:
        """The distribution."""
        return LinearOneHotCategorical(logits=self.logits)


class MixturePrior(Prior):
    r"""A Gaussian mixture as one continuous distribution, with the component summed in the density.

    .. math:: p(z) = \sum_k \pi_k\, \mathrm{Normal}(z;\, \mu_k, \Sigma_k)

    All parameters are learned. A `VAE` with this prior has the density and the bound of
    `MixtureVAE` with y enumerated, but no latent y. The submodules have the names of that model,
    `p_y` and `p_z`, so that a state of one loads into the other.

    Args:
        size: D.
        num_components: number of components, K.
        family: of the components, `Normal()` (diagonal) or `MultivariateNormal()`.

    Example:
        >>> import pyro_vae as pv
        >>> prior = pv.models.MixturePrior(2, num_components=3)
        >>> prior().component_distribution.mean.shape
        torch.Size([3, 2])
    """

    each: torch.Tensor

    def __init__(self, size: int, num_components: int = 10, family: Family | None = None) -> None:
        super().__init__()
        check_int_at_least(1, size=size)
        self.p_y = CategoricalPrior(num_components, learned=True)
        self.p_z = Conditional((size,), {"y": (num_components,)}, family, MLP(hidden=()))
        weight = self.p_z.head.get_parameter("maps.y.weight")
        with torch.no_grad():  # spread over the standard normal, where encodings start
            weight[:size].normal_()
        self.register_buffer("each", torch.eye(num_components), persistent=False)

    def forward(self) -> dist.MixtureSameFamily:
        """The distribution."""
        return dist.MixtureSameFamily(
            dist.Categorical(logits=self.p_y.logits), self.p_z(y=self.each)
        )


class VampPrior(Prior):
    r"""Variational mixture of posteriors.

    .. math:: p(z) = \frac1K \sum_k q(z \mid u_k)

    The components are the encoder's distributions at K learned pseudo-inputs. The prior contains
    the encoder, a `Conditional`. If the guide declares the same parents, shapes and family for z,
    `Guide(model)` uses this encoder as its q(z | x), and both sides of the bound train it; the
    guide's `network=` then has no effect on z. For any other guide (constants, another family) the
    prior has a separate encoder.

    Pseudo-inputs are inputs of the network, after the guide's `input_scaling`. They start as
    N(0, 1) noise; `pv.train.PseudoInputInitialization()` starts them at training data. They are not
    restricted to the range of the data.

    Copy a pair with such a prior in one call, `copy.deepcopy((model, guide))`: if they are copied
    separately, model and guide have separate encoders.

    Args:
        given: event shape of x; or `{parent: shape}`, for guides with other parents of z.
        size: D.
        num_components: number of pseudo-inputs, K.
        network: of the encoder.
        family: of the encoder.

    References:
        Tomczak and Welling 2018, arXiv 1705.07120.

    Example:
        >>> import pyro_vae as pv
        >>> prior = pv.models.VampPrior((6,), size=2, num_components=5)
        >>> model = pv.models.VAE((6,), latent_dim=2, prior=prior)
        >>> pv.guides.Guide(model).factors["z"] is prior.encoder
        True
    """

    logits: torch.Tensor

    def __init__(
        self,
        given: dict | tuple,
        size: int,
        num_components: int = 50,
        network: Network | None = None,
        family: Family | None = None,
    ) -> None:
        super().__init__()
        check_int_at_least(1, size=size)
        check_num_components(num_components)
        given = given if isinstance(given, dict) else {"x": given}
        if not given:
            raise UserError("a VampPrior's encoder needs at least one parent, e.g. x")
        self.encoder = Conditional((size,), given, Normal() if family is None else family, network)
        self.pseudo_inputs = nn.ParameterDict(
            {name: nn.Parameter(torch.randn(num_components, *s)) for name, s in given.items()}
        )
        self.register_buffer("logits", torch.zeros(num_components), persistent=False)

    def encoder_for(
        self, inputs: Mapping[str, Sequence[int]], family: Family
    ) -> Conditional | None:
        """The encoder, if it has these parents (`{name: shape}`) and this family; else None."""
        own = {name: tuple(u.shape[1:]) for name, u in self.pseudo_inputs.items()}
        same = own == {n: tuple(s) for n, s in inputs.items()} and family == self.encoder.family
        return self.encoder if same else None

    def forward(self) -> dist.MixtureSameFamily:
        """The distribution."""
        q = self.encoder(**self.pseudo_inputs)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), q)


class FlowPrior(Prior):
    r"""A normalizing flow as prior, by zuko.

    .. math:: p(z) = \mathrm{Normal}(f(z);\, 0, I)\; |\det \partial f / \partial z|

    f is applied to :math:`(z - \mathrm{loc}) / \mathrm{scale}`, because splines are the identity
    outside [-5, 5].

    Args:
        size: D.
        flow: `"maf"`, `"spline"` or `"coupling"`.
        transforms: number of layers.
        hidden: widths of each layer's network.
        loc: `[D]`. Default: zeros.
        scale: `[D]`, positive. Default: ones.
        options: further options of the zuko flow, e.g. `bins=4`.

    Raises:
        UserError: the flow is unknown, a size is not an integer ≥ 1, or the scale is not positive.

    References:
        Chen et al. 2017, arXiv 1611.02731; arXiv 1705.07057 (maf); arXiv 1906.04032 (spline).

    Example:
        >>> import pyro_vae as pv
        >>> prior = pv.models.FlowPrior(2, transforms=1, hidden=(8,))
        >>> prior().sample((5,)).shape
        torch.Size([5, 2])
    """

    loc: torch.Tensor
    scale: torch.Tensor

    def __init__(
        self,
        size: int,
        flow: str = "maf",
        transforms: int = 4,
        hidden: tuple[int, ...] = (64, 64),
        loc: torch.Tensor | None = None,
        scale: torch.Tensor | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        check_int_at_least(1, size=size, transforms=transforms)
        check_ints_at_least(1, hidden=hidden)
        if scale is not None and not (torch.isfinite(scale) & (scale > 0)).all():
            raise UserError("the scale of a flow prior must be positive everywhere")
        if flow not in FLOWS:
            raise unknown_name_error("flow", flow, FLOWS)
        self.flow = FLOWS[flow](
            size, transforms=transforms, hidden_features=tuple(hidden), **options
        )
        self.register_buffer("loc", torch.zeros(size) if loc is None else loc)
        self.register_buffer("scale", torch.ones(size) if scale is None else scale)

    def forward(self) -> FlowDistribution:
        """The distribution."""
        flow = self.flow()
        return affine_flow(flow.transform, flow.base, self.loc, self.scale)


def prior_or_default(prior: nn.Module | None, latent: str, size: int) -> nn.Module:
    """The module passed as a model's `prior=`, or `StandardNormalPrior(size)` for None.

    Raises:
        UserError: it is not a module whose `forward()` is a distribution of shape `[size]`.
    """
    if prior is None:
        return StandardNormalPrior(size)
    what = f"prior must be a module whose forward() returns the distribution of {latent}"
    if not isinstance(prior, nn.Module):
        raise UserError(f"{what}, such as StandardNormalPrior({size}), not {type(prior).__name__}")
    try:
        with torch.no_grad(), eval_mode(prior), fork_rng():
            shape = tuple(prior().event_shape)
    except (TypeError, AttributeError) as e:
        raise UserError(f"{what}; {type(prior).__name__} does not: {e}") from e
    if shape != (size,):
        raise UserError(f"{latent} has shape {[size]}, the prior's distribution {list(shape)}")
    return prior


def prior_of(model: Callable[..., Any], latent: str | None = None) -> tuple[str, nn.Module]:
    """A model's continuous latent without parents, and its prior.

    Args:
        model: one of this library's models.
        latent: the name of the latent. Default: `model.prior_latent`, else `"z"`.

    Returns:
        `(latent, module)`.

    Raises:
        UserError: the latent does not exist, or has parents.

    Example:
        >>> import pyro_vae as pv
        >>> pv.models.prior_of(pv.models.VAE((6,), latent_dim=2))
        ('z', StandardNormalPrior())
    """
    latent = interface_of(model, ModelInterface).prior_latent if latent is None else latent
    prior = conditional_of(model, latent)
    kind = type(model).__name__
    if prior is None:
        raise UserError(f"{kind} has no module p_{latent}, the prior of {latent!r}")
    if isinstance(prior, Conditional) and prior.given:
        raise UserError(
            f"{latent!r} has the parents {', '.join(prior.given)} in {kind}: it has no prior without "
            "parents"
        )
    return latent, prior


def with_prior(model: nn.Module, prior: nn.Module, latent: str | None = None) -> nn.Module:
    """The model with another prior: a copy that shares all other modules.

    `with_prior(model, pv.evaluate.fit_ex_post_prior(model, guide, x))` can be sampled and evaluated
    like any model, with the guide of the original one.

    Args:
        model: one of this library's models.
        prior: a module whose `forward()` is a distribution of the latent's shape.
        latent: the name of the latent. Default: as in `prior_of`.

    Raises:
        UserError: the latent does not exist, or the prior has another shape.

    Example:
        >>> import pyro_vae as pv
        >>> model = pv.models.VAE((6,), latent_dim=2)
        >>> mixture = pv.models.with_prior(model, pv.models.MixturePrior(2))
        >>> mixture.p_x is model.p_x, type(mixture.p_z).__name__
        (True, 'MixturePrior')
    """
    latent, old = prior_of(model, latent)
    shapes = [tuple(p().event_shape) for p in (old, prior)]
    if shapes[0] != shapes[1]:
        raise UserError(f"{latent!r} has shape {list(shapes[0])}, this prior {list(shapes[1])}")
    result = copy.copy(model)
    with_separate_modules(result)
    setattr(result, f"p_{latent}", prior)
    return result
