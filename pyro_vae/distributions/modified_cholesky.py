"""The multivariate normal distribution by the modified Cholesky decomposition of its precision."""

import math
from collections.abc import Sequence

import torch
from torch.distributions import constraints
from torch.distributions.utils import lazy_property

from .._torch_internals import NormalOfLazyFactor
from ..errors import UserError

SMALL = 64  # sizes up to which two products with a table cost less than the matrix of each datum


class ModifiedCholeskyNormal(NormalOfLazyFactor):
    r"""Multivariate normal distribution in which each value is a regression on those before it.

    :math:`(I + S)\,\mathrm{diag}(\sigma)^{-1}(z - \mu) = \epsilon` is standard normal, where S is
    strictly lower triangular: :math:`z_i = \mu_i + \sigma_i(\epsilon_i - \sum_{j<i} S_{ij}
    (z_j - \mu_j) / \sigma_j)`. A log-prob needs no triangular system, and up to 64
    dimensions no matrix of each data point (`python -m benchmarks.speed.full_covariance`). Every such
    distribution is a `torch.distributions.MultivariateNormal`, with all that one has.

    Args:
        loc: `[..., D]`, the mean.
        scale: `[..., D]`, the conditional standard deviation of each value given those before it.
        below: `[..., D (D - 1) / 2]`, the entries of S, row by row.
        validate_args: whether to check the arguments. Default: Pyro's setting.

    Raises:
        UserError: shapes that do not fit each other.

    References:
        Pourahmadi 1999, Joint mean-covariance models with applications to longitudinal data
        (Biometrika 86).

    Example:
        >>> import torch, pyro_vae as pv
        >>> q = pv.distributions.ModifiedCholeskyNormal(
        ...     torch.zeros(2), torch.ones(2), torch.tensor([-1.0])
        ... )  # z1 is noise, z2 = z1 + noise
        >>> q.covariance_matrix
        tensor([[1., 1.],
                [1., 2.]])
    """

    arg_constraints = {
        "loc": constraints.real_vector,
        "scale": constraints.independent(constraints.positive, 1),
        "below": constraints.real_vector,
    }

    def __init__(
        self,
        loc: torch.Tensor,
        scale: torch.Tensor,
        below: torch.Tensor,
        validate_args: bool | None = None,
    ) -> None:
        d = loc.shape[-1]
        if scale.shape[-1] != d or below.shape[-1] != d * (d - 1) // 2:
            raise UserError(
                f"a loc of {d} values has {d} scales and {d * (d - 1) // 2} entries below the "
                f"diagonal, not {scale.shape[-1]} and {below.shape[-1]}"
            )
        batch_shape = torch.broadcast_shapes(loc.shape[:-1], scale.shape[:-1], below.shape[:-1])
        self.loc = loc.expand(*batch_shape, d)
        self.scale = scale.expand(*batch_shape, d)
        self.below = below
        self.set_shapes(batch_shape, d, validate_args)

    def expand(
        self, batch_shape: Sequence[int], _instance: "ModifiedCholeskyNormal | None" = None
    ) -> "ModifiedCholeskyNormal":
        """The same distribution with its batch shape expanded."""
        new = self._get_checked_instance(ModifiedCholeskyNormal, _instance)
        d = self.event_shape[0]
        new.loc = self.loc.expand(*batch_shape, d)
        new.scale = self.scale.expand(*batch_shape, d)
        new.below = self.below
        new.set_shapes(torch.Size(batch_shape), d, False)
        new._validate_args = self._validate_args
        return new

    @lazy_property
    def unit(self) -> torch.Tensor:
        """I + S: `[..., D, D]`."""
        return unit_lower(self.below, self.event_shape[0])

    def factor(self) -> torch.Tensor:
        """The lower Cholesky factor of the covariance: `[..., D, D]`."""
        return self.scale.unsqueeze(-1) * unit_lower_inverse(self.unit)

    def rsample(self, sample_shape: Sequence[int] = ()) -> torch.Tensor:
        """Draws `[*sample_shape, *batch_shape, D]`, differentiable by the arguments."""
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        # as columns: the draws of one S are one system
        batch_shape = self.batch_shape if self.below.dim() > 1 else ()
        columns = noise.reshape(-1, *batch_shape, shape[-1]).movedim(0, -1)
        solved = torch.linalg.solve_triangular(self.unit, columns, upper=False, unitriangular=True)
        return self.loc + self.scale * solved.movedim(-1, 0).reshape(shape)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Log-density of values `[..., D]`, in nats: `[...]`."""
        if self._validate_args:
            self._validate_sample(value)
        d = self.event_shape[0]
        # a matrix product of what is not contiguous would copy more than this
        standard = ((value - self.loc) / self.scale).contiguous()
        if d <= SMALL and self.below.shape[:-1] == self.batch_shape:
            row, col = torch.tril_indices(d, d, -1, device=value.device)
            eye = torch.eye(d, dtype=value.dtype, device=value.device)
            # products with rows of the identity: their gradients are products too, no scattering
            noise = standard + ((standard @ eye[:, col]) * self.below) @ eye[row]
        else:
            noise = torch.einsum("...ij,...j->...i", self.unit, standard)
        half = 0.5 * noise.square().sum(-1) + self.scale.log().sum(-1)
        return -half - 0.5 * d * math.log(2 * math.pi)

    def entropy(self) -> torch.Tensor:
        """Entropy in nats: `[...]`."""
        d = self.event_shape[0]
        return self.scale.log().sum(-1) + 0.5 * d * (1 + math.log(2 * math.pi))


def unit_lower(below: torch.Tensor, d: int) -> torch.Tensor:
    """The unit lower triangular matrices `[..., D, D]` with these entries below the diagonal."""
    row, col = torch.tril_indices(d, d, -1, device=below.device)
    unit = torch.eye(d, dtype=below.dtype, device=below.device).repeat(*below.shape[:-1], 1, 1)
    unit[..., row, col] = below
    return unit


def unit_lower_inverse(unit: torch.Tensor) -> torch.Tensor:
    """The inverses of unit lower triangular matrices `[..., D, D]`."""
    eye = torch.eye(unit.shape[-1], dtype=unit.dtype, device=unit.device).expand(unit.shape)
    return torch.linalg.solve_triangular(unit, eye, upper=False, unitriangular=True)


def modified_cholesky(covariance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The scales `[..., D]` and the entries of S `[..., D (D - 1) / 2]` of a covariance `[..., D, D]`."""
    tril = torch.linalg.cholesky(covariance)
    scale = torch.diagonal(tril, dim1=-2, dim2=-1)
    unit = unit_lower_inverse(tril / scale.unsqueeze(-1))
    d = scale.shape[-1]
    row, col = torch.tril_indices(d, d, -1, device=covariance.device)
    return scale, unit[..., row, col]
