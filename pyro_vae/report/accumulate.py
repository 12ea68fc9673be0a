"""The numbers of a pair as means over data points, which arrive in one batch or in several."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from .. import evaluate
from ..data import Data
from ..diagnostics.importance import TAIL_SAMPLES, importance_weights, median_k, pareto_k
from ..evaluate.inputs import Inputs, why_improper
from ..evaluate.latents import ACTIVE_THRESHOLD
from ..evaluate.likelihood import kinds_of_terms, why_no_log_likelihood
from ..evaluate.streaming import RunningMean
from ..guides import PriorGuide
from ..programs import layout_of
from ..programs.calling import accepts_argument

IMPORTANCE, MONTE_CARLO, EXACT = "importance weighted", "Monte Carlo from the prior", "exact"
UNITS = "units"  # the term of what standardization changes
BOUNDS = ("elbo", "log_likelihood", "log_likelihood_monte_carlo")
LOOKED_AT = 30  # data points whose importance weights are looked at


class PairNumbers:
    """Bounds, KLs, active units and components of a pair, accumulated over batches.

    Args:
        model, guide: the pair.
        data: what the pair was trained on. Bounds on log p(x) are in its original units.
        num_samples: importance samples per data point, for the log-likelihood.
        seed: of the draws in the first batch; those of batch n have the seed `seed + n`.

    Attributes:
        assignments: for each batch, the most probable component `[B]` of each data point.
    """

    def __init__(
        self, model: Callable, guide: Callable, data: Data, num_samples: int, seed: int
    ) -> None:
        self.model, self.guide, self.data = model, guide, data
        self.num_samples, self.seed = num_samples, seed
        self.assignments: list[torch.Tensor] = []
        self._means: dict[str, RunningMean] = {}
        self._terms: dict[str, RunningMean] = {}
        self._codes: dict[str, RunningMean] = {}
        self._kinds: dict[str, str] = {}
        self._no_likelihood: str | None = None
        self._num_batches, self._conditional, self._estimator = 0, False, ""
        self._pareto_k = math.nan

    @property
    def num_data(self) -> int:
        """The number of data points so far."""
        return self._means["elbo"].count if self._means else 0

    @torch.no_grad()
    def add(self, x: torch.Tensor, others: Inputs) -> None:
        """Evaluate a batch.

        Args:
            x: `[B, ...]`.
            others: further inputs of the pair by name.
        """
        model, guide, seed = self.model, self.guide, self.seed + self._num_batches
        self._num_batches += 1
        self._conditional = "c" in others
        terms = evaluate.elbo_terms(model, guide, x, num_samples=10, seed=seed, **others)
        elbo = torch.as_tensor(sum(terms.values()))
        if not self._kinds:
            self._kinds = kinds_of_terms(model, guide, x, **others)
        log_volume = self.data.log_abs_det_jacobian(x).to(elbo)
        terms = self._named(terms)
        _add(self._terms, self._in_original_units(terms, log_volume))
        _add(self._means, {"elbo": elbo - log_volume})
        self._estimator = estimator(guide, terms)
        self._no_likelihood = self._no_likelihood or why_no_log_likelihood(
            self._kinds, why_improper(model, guide, x, **others)
        )
        if self._no_likelihood is None:
            self._add_log_likelihood(x, others, seed, log_volume)
        codes = evaluate.encode(model, guide, x, **others)
        _add(self._codes, {name: code.reshape(len(code), -1) for name, code in codes.items()})
        if accepts_argument(model, "y") and "y" not in others:
            # the noise is common to all rows, those of other batches included
            p = evaluate.responsibilities(model, guide, x, seed=self.seed, **others)
            self._add_probabilities(p.double())

    def _named(self, terms: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The terms as they are reported.

        The only data site of a user-defined model is x. Latents that are part of one draw of the guide
        have one KL.
        """
        data, joint, latents = (
            [n for n, kind in self._kinds.items() if kind == wanted]
            for wanted in ("data", "joint", "latent")
        )
        renamed = {data[0]: "x"} if len(data) == 1 else {}
        if joint:
            renamed |= dict.fromkeys([*latents, *joint], ", ".join(latents))
        named: dict[str, torch.Tensor] = {}
        for name, term in terms.items():
            name = renamed.get(name, name)
            named[name] = named[name] + term if name in named else term
        return named

    def _in_original_units(
        self, terms: dict[str, torch.Tensor], log_volume: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """The terms with the change of units: in that of x, or, of several data sites, as one more."""
        if self.data.scaling is None:
            return terms
        name = "x" if list(self._kinds.values()).count("data") == 1 else UNITS
        if name == UNITS:
            self._kinds[UNITS] = "units"
        return terms | {name: terms.get(name, 0.0) - log_volume}

    def _reported_kinds(self) -> dict[str, str]:
        """The kinds of the terms that are neither x nor the KL of a latent."""
        return {
            n: kind
            for n, kind in self._kinds.items()
            if n in self._terms and kind != "latent" and n != "x"
        }

    def _add_log_likelihood(
        self, x: torch.Tensor, others: Inputs, seed: int, log_volume: torch.Tensor
    ) -> None:
        guides = {"log_likelihood": self.guide}
        if self._conditional and self._estimator == IMPORTANCE:
            guides["log_likelihood_monte_carlo"] = PriorGuide(self.model)
        for name, guide in guides.items():
            bound = evaluate.log_likelihood(
                self.model, guide, x, self.num_samples, seed=seed, **others
            )
            _add(self._means, {name: bound - log_volume})
        if self._num_batches == 1 and self._looks_at_weights(x, others):
            few = {name: value[:LOOKED_AT] for name, value in others.items()}
            log_w = importance_weights(
                self.model, self.guide, x[:LOOKED_AT], self.num_samples, seed, **few
            )
            self._pareto_k = median_k(pareto_k(log_w))

    def _looks_at_weights(self, x: torch.Tensor, others: Inputs) -> bool:
        if self._estimator != IMPORTANCE or self.num_samples < TAIL_SAMPLES:
            return False
        # a pair may have a row for each data point, so that it cannot run on a few
        return layout_of(self.model, self.guide, {"x": x, **others}).divisible

    def _add_probabilities(self, p: torch.Tensor) -> None:
        component = p.argmax(-1)
        self.assignments.append(component.cpu())
        entropies = -torch.xlogy(p, p).sum(-1)
        is_component = component.unsqueeze(-1) == torch.arange(p.shape[-1], device=p.device)
        _add(self._means, {"p": p, "entropy": entropies, "occupancy": is_component.double()})

    def result(self) -> dict[str, Any]:
        """The numbers as JSON values, the bounds with standard errors over the data points."""
        means = {name: mean.mean for name, mean in self._means.items()}
        elbo, log_likelihood, monte_carlo = BOUNDS
        result: dict[str, Any] = {"conditional": self._conditional, elbo: float(means[elbo])}
        if self._no_likelihood is not None:
            result["no_log_likelihood"] = self._no_likelihood
        else:
            result[log_likelihood] = float(means[log_likelihood])
            result["estimator"] = self._estimator
            if math.isfinite(self._pareto_k):
                result["pareto_k"] = self._pareto_k
            if monte_carlo in means:
                result[monte_carlo] = float(means[monte_carlo])
        named = [name for name in BOUNDS if name in result]
        errors = {name: self._means[name].estimate().standard_error for name in named}
        result["standard_errors"] = {n: e for n, e in errors.items() if math.isfinite(e)}
        result["terms"] = {name: float(mean.mean) for name, mean in self._terms.items()}
        result["other_terms"] = self._reported_kinds()
        # of one data point: no spread
        activity = {name: mean.variance.nan_to_num(0.0) for name, mean in self._codes.items()}
        result["unit_activity"] = {name: v.tolist() for name, v in activity.items()}
        result["active_units"] = {n: int((v > ACTIVE_THRESHOLD).sum()) for n, v in activity.items()}
        result["units"] = {name: len(v) for name, v in activity.items()}
        if "p" in means:
            result["occupancy"] = means["occupancy"].tolist()
            mean_entropy = float(means["entropy"])
            result["discrete"] = {
                "entropy": mean_entropy,
                "largest": math.log(len(means["p"])),
                "mutual_information": evaluate.entropy(means["p"].unsqueeze(0)) - mean_entropy,
            }
        return result


def _add(means: dict[str, RunningMean], values: Mapping[str, torch.Tensor]) -> None:
    for name, value in values.items():
        means.setdefault(name, RunningMean()).add(value)


def estimator(guide: Callable, terms: Mapping[str, torch.Tensor]) -> str:
    """The name of the estimator that `log_likelihood` uses with this guide."""
    if set(terms) == {"x"}:
        return EXACT
    return MONTE_CARLO if isinstance(guide, PriorGuide) else IMPORTANCE
