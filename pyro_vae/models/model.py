"""The base of every model."""

from ..programs.interfaces import ModelInterface
from ..programs.program import Program


class Model(ModelInterface, Program):
    r"""Base class of models: a Pyro program :math:`p(x, \text{latents})` in a `torch.nn.Module`.

    A subclass defines `forward(x=None, ..., size=None)`, with all sample statements in one data plate
    at dim -1. With `x=None, size=n` it samples n data points. The distribution of a variable `a`
    given its parents is the module `p_a`, usually a `Conditional`. A subclass declares what differs
    from the defaults below. A user-defined program that is not a `Model` (a function, any
    `nn.Module`) may declare the same names; it has the same defaults.

    Attributes:
        observes: names of the data that `forward` takes. Default: `("x",)`.
        covariates: `{name: event shape}` of the inputs that are not modeled. Default: `{}`.
        class_covariates: names of the covariates that are classes, as one-hot vectors. `sample`
            takes integers for them. Default: `()`.
        prior_latent: the continuous latent without parents, whose prior can be chosen: it is the
            module `p_<prior_latent>`. Default: `"z"`.
        style_latent: the latent that describes x beside its class y. Default: None.
        default_guide: `{latent: parents}` in sampling order, the factorization of `Guide(model)`.
            Default: None, so that `Guide(model)` needs `given=`.
        ignores_missing: whether NaN in x is a missing value. A model whose p(x | ...) is a
            `Conditional` with the family `IgnoreMissing` need not declare it. Default: False.

    Example:
        >>> import pyro, pyro.distributions as dist, torch, pyro_vae as pv
        >>> class FactorAnalysis(pv.models.Model):
        ...     default_guide = {"z": ["x"]}
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.p_z = pv.models.StandardNormalPrior(2)
        ...         self.p_x = pv.conditionals.Conditional((5,), {"z": (2,)})
        ...     def forward(self, x=None, size=None):
        ...         with pyro.plate("data", size if x is None else len(x)):
        ...             z = pyro.sample("z", self.p_z())
        ...             return pyro.sample("x", self.p_x(z=z), obs=x)
        >>> model = FactorAnalysis()
        >>> pv.guides.Guide(model)(torch.zeros(3, 5))["z"].shape
        torch.Size([3, 2])
    """
