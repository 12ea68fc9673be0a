"""Which columns a likelihood takes as real numbers."""

import torch
from torch.distributions import constraints

from .columns import Columns
from .conditional import Conditional
from .families import Family
from .missing import without_missing


def real_columns(family: Family, num_columns: int) -> torch.Tensor:
    """`[D]` booleans: the columns on which a likelihood has a density on all real numbers.

    Example:
        >>> import pyro_vae as pv
        >>> from pyro_vae.conditionals.support import real_columns
        >>> real_columns(pv.conditionals.Columns((("normal", 2), ("poisson", 1))), 3)
        tensor([ True,  True, False])
    """
    base = without_missing(family)
    assert base is not None
    if isinstance(base, Columns):
        return torch.cat([real_columns(block, size) for block, size in base.families()])
    with torch.random.fork_rng(devices=[]):
        fn = Conditional((num_columns,), {}, base)()  # its parameters are constants
    try:
        support = fn.support
    except NotImplementedError:  # a user's family that does not state it
        support = None
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return torch.full((num_columns,), support is constraints.real)
