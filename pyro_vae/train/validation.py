"""The validation ELBO after an epoch, the best weights so far, and patience."""

import math
from collections.abc import Callable
from typing import Any

import torch

from ..evaluate import elbo
from ..evaluate.streaming import RunningMean
from ..programs.inspection import is_per_datum
from . import distributed
from .inputs import Inputs
from .state import Progress
from .weights import Weights, weights_of


class Validation:
    """The validation ELBO of a pair, and the weights of the best epoch by it.

    A guide with parameters per data point has none for validation data: it is not validated.

    Args:
        model, guide: the pair.
        inputs: the `Inputs` of the pair.
        seed: of the noise, the same at each validation.
        patience: epochs without a better ELBO after which training stops, at a validation. Default:
            never.

    Attributes:
        best: the weights of the best epoch.
        worst_batch: the validation batch whose ELBO was not finite.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        inputs: Inputs,
        seed: int,
        patience: int | None,
    ) -> None:
        self.model, self.guide, self.inputs = model, guide, inputs
        self.seed, self.patience = seed, patience
        self.possible = inputs.has_valid and not is_per_datum(guide)
        self.best: Weights | None = None
        self.worst_batch: dict[str, torch.Tensor] = {}

    @property
    def enabled(self) -> bool:
        """Whether there is something to validate on."""
        return self.possible and not self.inputs.all_rows

    def elbo(self) -> float:
        """The mean ELBO, nats per data point, at beta = 1; the same in every process."""
        return distributed.on_rank_zero(self._elbo)

    def _elbo(self) -> float:
        total = RunningMean()
        for number, batch in enumerate(self.inputs.valid()):
            inputs: dict[str, Any] = batch  # unpacked beside keyword options
            bounds = elbo(self.model, self.guide, **inputs, seed=self.seed + number)
            if self.inputs.valid_stream is None:
                return float(bounds.mean())
            total.add(bounds)
            if not math.isfinite(total.mean):
                self.worst_batch = batch
                break
        return float(total.mean)

    def keep_if_best(self, value: float, at: Progress, free: list[Any]) -> None:
        """Copy the weights of the epoch that has just ended, if its ELBO is the best so far."""
        if value > at.best_elbo:
            at.best_elbo, at.best_epoch = value, at.epoch + 1
            self.best = weights_of(self.model, self.guide, free)

    def out_of_patience(self, at: Progress) -> bool:
        """Whether the best epoch lies `patience` epochs back."""
        if self.patience is None or at.best_epoch is None:
            return False
        return at.epoch - at.best_epoch >= self.patience
