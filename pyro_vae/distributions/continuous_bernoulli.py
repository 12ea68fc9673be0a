"""The continuous Bernoulli distribution, accurate for every logit in float32 and in float64."""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import torch
from pyro.distributions import TorchDistribution, constraints

_BERNOULLI_NUMBERS = (  # B_2, B_4, ..., B_22
    "1/6 -1/30 1/42 -1/30 5/66 -691/2730 7/6 -3617/510 43867/798 -174611/330 854513/138"
).split()
# log(sinh(t / 2) / (t / 2)) = sum_n SERIES[n - 1] t^(2n) for |t| < 2 pi
SERIES = [
    float(Fraction(b) / (2 * n * math.factorial(2 * n)))
    for n, b in enumerate(_BERNOULLI_NUMBERS, start=1)
]


class ContinuousBernoulli(TorchDistribution):
    r"""The density :math:`p(x) \propto e^{\eta x}` on [0, 1] with logit :math:`\eta`.

    The normalized log-density is

    .. math:: \log p(x) = \eta (x - \tfrac12) - \log\frac{\sinh(\eta/2)}{\eta/2}
              = -|\eta|\, d + \log\frac{|\eta|}{1 - e^{-|\eta|}}

    with d the distance of x from the end that the logit prefers. For :math:`|\eta| < 1` the first
    form is used, as a series in :math:`\eta^2`. For larger logits the second form is used; it loses
    no digits there. Values and derivatives of the unused form are finite.

    Args:
        logits: `[...]`, any real numbers.

    References:
        Loaiza-Ganem and Cunningham 2019, arXiv 1907.06845.

    Example:
        >>> import torch, pyro_vae as pv
        >>> fn = pv.distributions.ContinuousBernoulli(torch.tensor([0.0, 2.0]))
        >>> fn.log_prob(torch.tensor(0.5))  # a logit of 0 is the uniform distribution
        tensor([ 0.0000, -0.1614])
    """

    arg_constraints = {"logits": constraints.real}
    support = constraints.unit_interval

    def __init__(self, logits: torch.Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(
        self, batch_shape: Sequence[int], _instance: "ContinuousBernoulli | None" = None
    ) -> "ContinuousBernoulli":
        """The same distribution with its batch shape expanded."""
        return ContinuousBernoulli(self.logits.expand(torch.Size(batch_shape)), validate_args=False)

    def _branches(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Whether |logit| < 1; the logit where it is, else 0; |logit| where it is not, else 1."""
        small = self.logits.abs() < 1
        return (
            small,
            torch.where(small, self.logits, 0.0),
            torch.where(small, 1.0, self.logits.abs()),
        )

    def _series(self, t: torch.Tensor, weight: Callable[[int], int]) -> torch.Tensor:
        """`sum_n weight(n) SERIES[n - 1] t^(2n - 2)`, to the precision of t's dtype for |t| < 1."""
        terms = SERIES if t.dtype == torch.float64 else SERIES[:5]
        total, square = torch.zeros_like(t), t * t
        for n in range(len(terms), 0, -1):
            total = total * square + weight(n) * terms[n - 1]
        return total

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """`[...]`: the log-density at `value [...]`, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        small, t, size = self._branches()
        near = self.logits * (value - 0.5) - self._series(t, lambda n: 1) * t * t
        distance = torch.where(self.logits > 0, 1 - value, value)
        far = -size * distance + size.log() - (-torch.expm1(-size)).log()
        return torch.where(small, near, far)

    def sample(self, sample_shape: Sequence[int] = ()) -> torch.Tensor:
        """Draws by inversion of the truncated exponential distribution of d."""
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            u = torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device)
            # below eps, the distribution is uniform to the last digit
            size = self.logits.abs().clamp(min=torch.finfo(u.dtype).eps)
            distance = (-torch.log1p(u * torch.expm1(-size)) / size).clamp(0, 1)
            return torch.where(self.logits > 0, 1 - distance, distance)

    @property
    def mean(self) -> torch.Tensor:
        small, t, size = self._branches()
        near = 0.5 + self._series(t, lambda n: 2 * n) * t
        distance = 1 / size + (-size).exp() / torch.expm1(-size)
        return torch.where(small, near, torch.where(self.logits > 0, 1 - distance, distance))

    @property
    def variance(self) -> torch.Tensor:
        small, t, size = self._branches()
        near = self._series(t, lambda n: 2 * n * (2 * n - 1))
        far = (1 / size) ** 2 - (-size).exp() / torch.expm1(-size) ** 2
        return torch.where(small, near, far)
