"""Priors without parents: any module whose `forward()` returns a distribution will do."""

import copy

import pyro.distributions as dist
import torch
import torch.nn as nn
from threadpoolctl import threadpool_limits

from ..conditionals import MLP, Conditional, Family, Network, Normal
from ..conditionals.families import LinearOneHotCategorical
from ..conditionals.flows import FLOWS, affine_flow
from ..errors import UserError, check_int_at_least, check_ints_at_least, unknown_name_error
from ..programs.contexts import eval_mode, fork_rng


class Prior(nn.Module):
    """Base of the priors of a continuous latent; `forward()` returns the distribution."""


class StandardNormalPrior(Prior):
    """`N(0, I)` over a vector of `size`."""

    def __init__(self, size: int):
        super().__init__()
        check_int_at_least(1, size=size)
        self.register_buffer("zero", torch.zeros(size), persistent=False)

    def forward(self):
        return dist.Normal(self.zero, torch.ones_like(self.zero)).to_event(1)


class CategoricalPrior(nn.Module):
    r"""A one-hot categorical over K components, uniform or with learned weights :math:`\pi`."""

    def __init__(self, num_components, learned=False):
        super().__init__()
        check_int_at_least(1, num_components=num_components)
        logits = torch.zeros(num_components)
        if learned:
            self.logits = nn.Parameter(logits)
        else:
            self.register_buffer("logits", logits)

    def forward(self):
        return LinearOneHotCategorical(logits=self.logits)


class MixturePrior(Prior):
    r"""A Gaussian mixture as one continuous distribution, its component summed in the density.

    .. math:: p(z) = \sum_k \pi_k\, \mathrm{Normal}(z;\, \mu_k, \Sigma_k)

    All parameters are learned. With it a `VAE` is the `MixtureVAE` with y summed: the same density
    and the same bound, without a latent to ask about. Its parts have that model's names, `p_y` and
    `p_z`, so a state of one loads into the other.

    Args:
        size: D, of z.
        num_components: K.
        family: of the components, `Normal()` (diagonal) or `MultivariateNormal()`.
    """

    def __init__(self, size: int, num_components: int = 10, family: Family | None = None):
        super().__init__()
        check_int_at_least(1, size=size, num_components=num_components)
        self.p_y = CategoricalPrior(num_components, learned=True)
        self.p_z = Conditional((size,), {"y": (num_components,)}, family, MLP(hidden=()))
        with torch.no_grad():  # spread over the standard normal, where encodings start
            self.p_z.head.maps["y"].weight[:size].normal_()
        self.register_buffer("each", torch.eye(num_components), persistent=False)

    def forward(self):
        return dist.MixtureSameFamily(
            dist.Categorical(logits=self.p_y.logits), self.p_z(y=self.each)
        )


class VampPrior(Prior):
    r"""Variational mixture of posteriors (Tomczak and Welling 2018, arXiv 1705.07120).

    .. math:: p(z) = \frac1K \sum_k q(z \mid u_k)

    The components are the encoder's own answers to K learned pseudo-inputs. The prior owns that
    encoder, a `Conditional`. `Guide(model)` takes it for its q(z | x), so that there is one encoder,
    trained by both sides of the bound, where the latent's declared parents, their shapes and the
    family are those of the prior; the guide's `network=` then says nothing about this latent. To
    any other guide (constants, another family) the prior keeps an encoder of its own.

    Pseudo-inputs live where the network's inputs do: behind the guide's `standardize`. They start
    as N(0, 1) noise there; `pv.train.PseudoInputInitialization()` puts them on training data.
    Nothing keeps them within the data's range.

    Copy a pair with such a prior in one go, `copy.deepcopy((model, guide))`: copied one by one,
    model and guide have an encoder each.

    Args:
        given: event shape of x; or `{parent: shape}`, for guides with other parents of z.
        size: D, of z.
        num_components: K, the number of pseudo-inputs.
        network, family: of the encoder.
    """

    def __init__(
        self,
        given: dict | tuple,
        size: int,
        num_components: int = 50,
        network: Network | None = None,
        family: Family | None = None,
    ):
        super().__init__()
        check_int_at_least(1, size=size, num_components=num_components)
        given = given if isinstance(given, dict) else {"x": given}
        if not given:
            raise UserError("a VampPrior's encoder needs at least one parent, e.g. x")
        self.encoder = Conditional((size,), given, Normal() if family is None else family, network)
        self.pseudo_inputs = nn.ParameterDict(
            {name: nn.Parameter(torch.randn(num_components, *s)) for name, s in given.items()}
        )
        self.register_buffer("logits", torch.zeros(num_components), persistent=False)

    def encoder_for(self, given, family):
        """The encoder, if a guide's factor with these parents (`{name: shape}`) and family is it."""
        own = {name: tuple(u.shape[1:]) for name, u in self.pseudo_inputs.items()}
        same = own == {n: tuple(s) for n, s in given.items()} and family == self.encoder.family
        return self.encoder if same else None

    def forward(self):
        q = self.encoder(**self.pseudo_inputs)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), q)


class FlowPrior(Prior):
    r"""A normalizing flow as prior, by zuko (as in Chen et al. 2017, arXiv 1611.02731).

    .. math:: p(z) = \mathrm{Normal}(f(z);\, 0, I)\; |\det \partial f / \partial z|

    after :math:`(z - \mathrm{loc}) / \mathrm{scale}`, two constants (default: 0 and 1): splines
    bend the space within [-5, 5] only.

    Args:
        size: D, of z.
        flow: `"maf"`, `"spline"` or `"coupling"`; see `FLOWS`.
        transforms: how many layers.
        hidden: widths of each layer's network.
        loc, scale: `[D]`.
        options: further ones of the zuko flow, e.g. `bins=4`.
    """

    def __init__(
        self,
        size: int,
        flow: str = "maf",
        transforms: int = 4,
        hidden: tuple[int, ...] = (64, 64),
        loc: torch.Tensor | None = None,
        scale: torch.Tensor | None = None,
        **options,
    ):
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

    def forward(self):
        flow = self.flow()
        return affine_flow(flow.transform, flow.base, self.loc, self.scale)


def prior_or_default(prior, latent, size):
    """The module given as a model's `prior=`, or `StandardNormalPrior(size)` for None.

    Raises:
        UserError: no module whose `forward()` is a distribution of shape `[size]`.
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


def prior_of(model, latent=None):
    """`(latent, module)`: a model's continuous latent without parents, and its prior.

    Args:
        latent: its name. Default: `model.prior_latent`, else `"z"`.

    Raises:
        UserError: no such latent, or one that has parents.
    """
    latent = getattr(model, "prior_latent", "z") if latent is None else latent
    prior = getattr(model, f"p_{latent}", None)
    kind = type(model).__name__
    if not isinstance(prior, nn.Module):
        raise UserError(f"{kind} has no module p_{latent}, the prior of {latent!r}")
    parents = getattr(prior, "given", ())
    if parents:
        raise UserError(
            f"{latent!r} has the parents {', '.join(parents)} in {kind}: it has no prior of its own"
        )
    return latent, prior


def with_prior(model, prior, latent=None):
    """The model with another prior: a copy that shares every part but that one.

    `with_prior(model, pv.evaluate.fit_ex_post_prior(model, guide, x))` samples, and is evaluated, like any model,
    with the guide that the first one was trained with.

    Args:
        prior: a module whose `forward()` is a distribution of the latent's shape.
        latent: as in `prior_of`.

    Raises:
        UserError: no such latent, or a prior of another shape.
    """
    latent, old = prior_of(model, latent)
    shapes = [tuple(p().event_shape) for p in (old, prior)]
    if shapes[0] != shapes[1]:
        raise UserError(f"{latent!r} has shape {list(shapes[0])}, this prior {list(shapes[1])}")
    result = copy.copy(model)
    result._modules = dict(model._modules)  # a copy.copy of a module shares this dict too
    setattr(result, f"p_{latent}", prior)
    return result


def fit_components(model, codes, fits, reg_covar, seed, max_iter=100):
    """scikit-learn's full-covariance mixture of codes `[N, D]`, put into p(y), p(z | y, ...)."""
    from sklearn.mixture import GaussianMixture

    mixture = GaussianMixture(
        model.p_y().event_shape[0],
        n_init=fits,
        max_iter=max_iter,
        reg_covar=reg_covar,
        random_state=seed,
    )
    with threadpool_limits(1):  # matrices so small are slower on several threads
        mixture.fit(codes)
    set_components(model, mixture.weights_, mixture.means_, mixture.covariances_)


@torch.no_grad()
def set_components(model, weights, means, covariances):
    """Put component weights `[K]`, means `[K, D]`, covariances `[K, D, D]` into p(y), p(z | y, ...)."""
    p_z, head = model.p_z, model.p_z.head
    raw = p_z.family.raw(torch.as_tensor(means), torch.as_tensor(covariances)).to(head.bias)
    if p_z.select == "y":  # K heads on features of the other parents
        head.bias.copy_(raw.flatten())
        for affine in head.maps.values():
            affine.weight.mul_(0.1)
    else:  # linear in the one-hot y
        head.bias.zero_()
        head.maps["y"].weight.copy_(raw.T)
    if isinstance(model.p_y.logits, torch.nn.Parameter):
        model.p_y.logits.copy_(torch.as_tensor(weights).log())
