"""Weights of the KL terms, and how they change during training."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Real

import torch

from ..errors import UserError
from .objective import Objective


class ScheduledObjective(Objective):
    r"""An objective that weights each latent's KL by :math:`\beta_l`, with linear warm-up.

    Attributes:
        beta: the final weight, one number or `{latent: number}` (1 for the others).
        warmup: epochs until then, one number or `{latent: epochs}` (0 for the others).
        warmup_start: the weight at epoch 0, of latents with warm-up.
    """

    beta: float | dict[str, float]
    warmup: int | dict[str, int]
    warmup_start: float
    _tensors: Mapping[str | None, torch.Tensor | float] = {}  # within `with_schedule_values`

    def set_schedule(
        self,
        beta: float | dict[str, float],
        warmup: int | dict[str, int],
        warmup_start: float,
    ) -> None:
        """Set the attributes.

        Raises:
            UserError: a number that is negative or NaN, or `warmup_start` without `warmup`.
        """
        check_non_negative(beta=beta, warmup=warmup, warmup_start=warmup_start)
        if warmup_start and not _has_warmup(warmup):
            raise UserError(f"warmup_start={warmup_start} has no effect without warmup=")
        self.beta, self.warmup, self.warmup_start = beta, warmup, warmup_start

    def current_beta(self, latent: str | None) -> torch.Tensor | float:
        """The weight of one latent's KL at the current epoch; None: of a latent without a setting."""
        if self._tensors:
            return self._tensors[latent if latent in self._tensors else None]
        beta = self.beta.get(latent or "", 1.0) if isinstance(self.beta, dict) else self.beta
        warmup = self.warmup.get(latent or "", 0) if isinstance(self.warmup, dict) else self.warmup
        if self.epoch >= warmup:
            return beta
        return self.warmup_start + (beta - self.warmup_start) * self.epoch / warmup

    def latents_with_settings(self) -> set[str | None]:
        """The latents that `beta` or `warmup` names, and None for all others."""
        settings = [s for s in (self.beta, self.warmup) if isinstance(s, dict)]
        return {None}.union(*settings)

    def schedule_values(self) -> dict[str | None, float]:
        """The current weights, `{latent: weight}`, if there is warm-up; None: of all other latents."""
        if not _has_warmup(self.warmup):
            return {}
        latents = sorted(self.latents_with_settings(), key=str)
        return {latent: float(self.current_beta(latent)) for latent in latents}

    def scheduled_attributes(self) -> tuple[str, ...]:
        """With warm-up, those of the schedule: its weights are tensors then."""
        schedule = ("beta", "warmup", "warmup_start") if _has_warmup(self.warmup) else ()
        return ("epoch", "_tensors", *schedule)

    @contextmanager
    def with_schedule_values(self, tensors: Mapping[str | None, torch.Tensor]) -> Iterator[None]:
        self._tensors = tensors
        try:
            yield
        finally:
            self._tensors = {}


def _has_warmup(warmup: int | dict[str, int]) -> bool:
    return any(warmup.values() if isinstance(warmup, dict) else [warmup])


def check_non_negative(**settings: float | Mapping[str, float]) -> None:
    """Raise a `UserError` unless every number is non-negative, or every value of a dict."""
    for name, value in settings.items():
        numbers = value.values() if isinstance(value, Mapping) else [value]
        if not all(isinstance(number, Real) for number in numbers):
            raise UserError(f"{name} must be a non-negative number, got {value!r}")
        if not all(number >= 0 for number in numbers):  # NaN is not
            raise UserError(f"{name} must be non-negative, got {value!r}")
