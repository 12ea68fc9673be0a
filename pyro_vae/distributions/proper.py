"""Whether the `log_prob` of a distribution is a log-probability, or only a score."""


class MaybeScore:
    """Base of the distributions whose `log_prob` may be a score that is not a log-probability.

    Attributes:
        proper: whether `log_prob` is a log-probability. Default: True.
    """

    proper: bool = True


def is_proper(fn: object) -> bool:
    """Whether the `log_prob` of a distribution is a log-probability.

    It is for every distribution of torch and Pyro, and for one of this library unless it says
    otherwise.

    Example:
        >>> import torch, pyro_vae as pv
        >>> from pyro_vae.distributions.proper import is_proper
        >>> is_proper(pv.distributions.GrayBernoulli(torch.tensor(0.5)))
        False
    """
    return fn.proper if isinstance(fn, MaybeScore) else True
