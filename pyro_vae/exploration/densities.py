"""Densities over two units of the latents, on a grid."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.distributions import (
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

from .payload import JsonValue, pack

POINTS = 80  # of the grid, per axis
SMOOTHING = 2.0  # standard deviation of the kernel that smooths draws, in grid steps
MASSES = (0.9, 0.5)  # of the regions that the contours enclose


@dataclass(frozen=True)
class Window:
    """A rectangle of the plane, `low [2]` to `high [2]`, with a grid of `POINTS` per axis."""

    low: torch.Tensor
    high: torch.Tensor

    @classmethod
    def around(cls, *points: torch.Tensor) -> "Window":
        """A window around several sets of points `[N, 2]`, without the outermost percent of each."""
        low = torch.stack([p.double().quantile(0.005, 0) for p in points]).amin(0)
        high = torch.stack([p.double().quantile(0.995, 0) for p in points]).amax(0)
        margin = 0.08 * (high - low).amax().clamp_min(1e-3)
        return cls(low - margin, high + margin)

    def axes(self, num: int = POINTS) -> list[torch.Tensor]:
        """The grid's places along both axes, `[num]` each."""
        pairs = zip(self.low.tolist(), self.high.tolist(), strict=True)
        return [torch.linspace(low, high, num, dtype=torch.float64) for low, high in pairs]

    def grid(self, num: int = POINTS) -> torch.Tensor:
        """The grid's places `[num, num, 2]`; the first index is that of the first axis."""
        return torch.stack(torch.meshgrid(*self.axes(num), indexing="ij"), -1)

    def described(self, num: int = POINTS) -> dict[str, JsonValue]:
        """The window as JSON values."""
        return {"low": self.low.tolist(), "high": self.high.tolist(), "num": num}


def smoothed_density(draws: torch.Tensor, window: Window) -> torch.Tensor:
    """The density of draws `[S, 2]` on the window's grid, `[POINTS, POINTS]`: a smoothed histogram.

    Example:
        >>> import torch
        >>> from pyro_vae.exploration.densities import Window, smoothed_density
        >>> draws = torch.randn(20_000, 2)
        >>> density = smoothed_density(draws, Window.around(draws))
        >>> abs(density.max() - 1 / (2 * torch.pi)) < 0.01
        tensor(True)
    """
    from scipy.ndimage import gaussian_filter  # SciPy is imported when it is used

    step = (window.high - window.low) / (POINTS - 1)
    edges = [
        np.linspace(low - s / 2, high + s / 2, POINTS + 1)
        for low, high, s in zip(
            window.low.tolist(), window.high.tolist(), step.tolist(), strict=True
        )
    ]
    first, second = draws.double().cpu().numpy().T
    counts, *_ = np.histogram2d(first, second, bins=edges)
    density = gaussian_filter(counts, SMOOTHING, mode="constant") / len(draws)
    return torch.as_tensor(density) / step.prod()


def plane_density(
    distribution: Distribution, units: Sequence[int], window: Window
) -> torch.Tensor | None:
    """The exact density of two units of a vector on the window's grid; None if it has no closed form.

    Args:
        distribution: of the vector: two-dimensional, or normal, or a mixture of normals.
        units: the two units.

    Example:
        >>> import pyro.distributions as dist, torch
        >>> from pyro_vae.exploration.densities import Window, plane_density
        >>> normal = dist.Normal(torch.zeros(5), 1.0).to_event(1)
        >>> window = Window(-torch.ones(2), torch.ones(2))
        >>> plane_density(normal, (0, 3), window).shape
        torch.Size([80, 80])
    """
    if isinstance(distribution, MixtureSameFamily):
        components = _marginal(distribution.component_distribution, units)
        if components is None:
            return None
        weights = distribution.mixture_distribution.logits.log_softmax(-1).double()
        points = window.grid().unsqueeze(-2).to(weights.device)
        return (weights + components.log_prob(points)).logsumexp(-1).exp()
    marginal = _marginal(distribution, units)
    if marginal is not None:
        return marginal.log_prob(window.grid().to(marginal.loc.device)).exp()
    if tuple(distribution.event_shape) == (2,) and list(units) == [0, 1]:
        points = window.grid().to(distribution.sample())  # its device and dtype
        return distribution.log_prob(points).double().exp()
    return None


def _marginal(distribution: Distribution, units: Sequence[int]) -> MultivariateNormal | None:
    """The marginal of two units of a normal distribution over vectors."""
    index = list(units)
    if isinstance(distribution, Independent) and isinstance(distribution.base_dist, Normal):
        mean, variance = distribution.mean.double(), distribution.variance.double()
        return MultivariateNormal(mean[..., index], torch.diag_embed(variance[..., index]))
    if isinstance(distribution, MultivariateNormal):
        covariance = distribution.covariance_matrix.double()[..., index, :][..., index]
        return MultivariateNormal(distribution.mean.double()[..., index], covariance)
    return None


def mass_levels(density: torch.Tensor, masses: Sequence[float] = MASSES) -> list[float]:
    """The heights above which a density on a grid has these masses, of the mass in the grid.

    Example:
        >>> import torch
        >>> from pyro_vae.exploration.densities import mass_levels
        >>> mass_levels(torch.tensor([[4.0, 3.0], [2.0, 1.0]]), [0.7, 0.4])
        [3.0, 4.0]
    """
    ordered = density.flatten().sort(descending=True).values
    mass = ordered.cumsum(0) / ordered.sum()
    return [float(ordered[int((mass < m - 1e-9).sum())]) for m in masses]


def described(density: torch.Tensor) -> dict[str, JsonValue]:
    """A density with the levels of its contours, as JSON values."""
    return {"density": pack(density), "levels": mass_levels(density)}
