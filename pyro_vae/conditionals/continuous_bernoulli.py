"""The continuous Bernoulli distribution, exact for every logit in float32 and in float64."""

import math
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

    Normalized (Loaiza-Ganem and Cunningham 2019, arXiv 1907.06845),

    .. math:: \log p(x) = \eta (x - \tfrac12) - \log\frac{\sinh(\eta/2)}{\eta/2}
              = -|\eta|\, d + \log\frac{|\eta|}{1 - e^{-|\eta|}}

    with d the distance of x from the end that the logit prefers. The first form is a series in
    :math:`\eta^2`, used for :math:`|\eta| < 1`; the second loses no digit elsewhere. Neither
    branch has a value or a derivative that is not finite where the other is taken.

    Args:
        logits: `[...]`, any real numbers.
    """

    arg_constraints = {"logits": constraints.real}
    support = constraints.unit_interval

    def __init__(self, logits, validate_args=None):
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        return ContinuousBernoulli(self.logits.expand(torch.Size(batch_shape)), validate_args=False)

    def _branches(self):
        """`(is small, the logit if so, its size if not)`, with harmless values in the other place."""
        small = self.logits.abs() < 1
        return (
            small,
            torch.where(small, self.logits, 0.0),
            torch.where(small, 1.0, self.logits.abs()),
        )

    def _series(self, t, weight):
        """`sum_n weight(n) SERIES[n - 1] t^(2n - 2)`, to the precision of t's dtype for |t| < 1."""
        terms = SERIES if t.dtype == torch.float64 else SERIES[:5]
        total, square = torch.zeros_like(t), t * t
        for n in range(len(terms), 0, -1):
            total = total * square + weight(n) * terms[n - 1]
        return total

    def log_prob(self, value):
        if self._validate_args:
            self._validate_sample(value)
        small, t, size = self._branches()
        near = self.logits * (value - 0.5) - self._series(t, lambda n: 1) * t * t
        distance = torch.where(self.logits > 0, 1 - value, value)
        far = -size * distance + size.log() - (-torch.expm1(-size)).log()
        return torch.where(small, near, far)

    def sample(self, sample_shape=()):
        """Draws by inversion of the truncated exponential distribution of d."""
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            u = torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device)
            # below eps, the distribution is uniform to the last digit
            size = self.logits.abs().clamp(min=torch.finfo(u.dtype).eps)
            distance = (-torch.log1p(u * torch.expm1(-size)) / size).clamp(0, 1)
            return torch.where(self.logits > 0, 1 - distance, distance)

    @property
    def mean(self):
        small, t, size = self._branches()
        near = 0.5 + self._series(t, lambda n: 2 * n) * t
        distance = 1 / size + (-size).exp() / torch.expm1(-size)
        return torch.where(small, near, torch.where(self.logits > 0, 1 - distance, distance))

    @property
    def variance(self):
        small, t, size = self._branches()
        near = self._series(t, lambda n: 2 * n * (2 * n - 1))
        far = (1 / size) ** 2 - (-size).exp() / torch.expm1(-size) ** 2
        return torch.where(small, near, far)
