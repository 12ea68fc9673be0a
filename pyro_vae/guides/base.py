"""The base of every guide."""

from ..programs.interfaces import GuideInterface
from ..programs.program import Program


class BaseGuide(GuideInterface, Program):
    r"""Base class of guides: a Pyro program :math:`q(\text{latents} \mid x)` in a `torch.nn.Module`.

    `Guide` declares most guides. Subclass this where a declaration does not suffice: `forward` takes
    what the model observes, by the same names, and samples latents in the model's data plate. A
    user-defined guide that is not a `BaseGuide` may declare the same names; it has the same defaults.

    Attributes:
        given: `{latent: parents}`; the parent `"index"` means that the guide has one row of
            parameters per training data point. Default: `{}`.
        input_scaling: `{parent: (mean, scale)}`, by which the guide standardizes its inputs. Default:
            `{}`.
        borrowed: programs that the guide runs without owning their parameters. Default: `()`.

    Example:
        >>> import pyro, pyro.distributions as dist, torch, pyro_vae as pv
        >>> class LinearGuide(pv.guides.BaseGuide):
        ...     given = {"z": ("x",)}
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.loc = torch.nn.Linear(5, 2)
        ...     def forward(self, x=None, size=None):
        ...         with pyro.plate("data", len(x)):
        ...             return pyro.sample("z", dist.Normal(self.loc(x), 1.0).to_event(1))
        >>> pv.evaluate.elbo(pv.models.VAE((5,), 2), LinearGuide(), torch.zeros(3, 5)).shape
        torch.Size([3])
    """
