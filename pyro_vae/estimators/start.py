"""Where the mixture of a clusterer starts: a Gaussian mixture of principal components."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
import torch.nn as nn
from sklearn.decomposition import PCA

from ..conditionals import Conditional
from ..guides import Guide
from ..models import GMVAE
from .training import Training
from .units import Units

MAX_ROWS = 10_000  # to which principal components and the mixture are fitted
MAX_VALUES = 2**24  # numbers in these rows
WIDTH = 0.3  # of the normal distribution around each code; all codes have a standard deviation of 1


class AroundCodes(nn.Module):
    r"""The model of the start, in which z lies near a code of each row.

        z     ~ Normal(code, 0.3 I)
        x | z ~ likelihood(f(z))

    Args:
        model: whose p(x | z) it shares.
    """

    def __init__(self, model: GMVAE) -> None:
        super().__init__()
        self.p_x: Conditional = model.p_x

    def forward(self, x: torch.Tensor, code: torch.Tensor) -> None:
        """Samples z; observes `x [B, D]`, for codes `[B, L]`."""
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(code, WIDTH).to_event(1))
            pyro.sample("x", self.p_x(z=z), obs=x)


class OfZ(nn.Module):
    """The guide of the start: q(z | x) of another guide.

    Args:
        guide: whose q(z | x) it shares.
    """

    def __init__(self, guide: Guide) -> None:
        super().__init__()
        self.q_z = guide.factors["z"]

    def forward(self, x: torch.Tensor, code: torch.Tensor) -> None:
        """Samples z given `x [B, D]`."""
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.q_z(x=x))


def principal_codes(
    training: Training, units: Units, size: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """`(codes [N, size], numbers of the rows that they were fitted to)`.

    The codes are principal components of the table as an encoder sees it, divided by one number so
    that their standard deviation is 1.

    Args:
        training: the table; rows held out are encoded, but nothing is fitted to them. Rows are
            drawn in proportion to their weights, if they have any.
        units: of the model.
        size: of the codes.
        seed: of the choice of rows.
    """
    rows, weight, fitted = training.rows, training.weight, training.kept
    state = np.random.RandomState(seed)
    count = min(MAX_ROWS, max(size + 1, MAX_VALUES // rows.table.shape[1]))
    if weight is not None:
        p = weight[fitted] / weight[fitted].sum()
        fitted = state.choice(fitted, len(fitted), p=p)
    if len(fitted) > count:
        fitted = state.choice(fitted, count, replace=False)
    num_components = min(size, len(fitted), rows.table.shape[1])
    components = PCA(num_components, random_state=seed).fit(units.encoder_values(rows[fitted]))
    codes = np.concatenate(
        [components.transform(units.encoder_values(block)) for block in rows.blocks()]
    )
    codes = codes / max(codes[fitted].std(), np.finfo(float).tiny)
    if num_components < size:  # more latents than columns: the others start as noise
        noise = state.standard_normal((len(rows), size - num_components))
        codes = np.hstack([codes, noise])
    return codes, fitted
