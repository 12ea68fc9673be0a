"""What the sections of a report share: the pair, one split of its data, and what is computed from both."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from pyro.distributions import LowRankMultivariateNormal, MixtureSameFamily, MultivariateNormal

from .. import evaluate, plots
from ..conditionals import Conditional
from ..data import Data
from ..data.display import joined, label_names
from ..errors import UserError
from ..evaluate.inputs import Batch, Inputs
from ..generate import sample
from ..guides import PriorGuide
from ..models import prior_of
from ..programs.calling import accepts_argument
from ..programs.interfaces import ModelInterface, conditional_of, interface_of
from ..programs.sites import choose_latent
from . import summary

COMPONENT_DRAWS = 500  # of a component's latent, for its mean and covariance
MOST_ELLIPSES = 30


@dataclass
class PairContext:
    """A trained pair and one split of its data.

    Args:
        model, guide: the pair.
        data: that it was trained on.
        split: train, valid or test.
        seed: of all draws.
        has_some_labels: whether training saw some labels, so that y is a class.
        num_data: how many data points of the split, from the first. Default: all.
    """

    model: Callable
    guide: Callable
    data: Data
    split: str
    seed: int
    has_some_labels: bool = False
    num_data: int | None = None

    def __post_init__(self) -> None:
        x, y, others = summary.inputs(self.model, self.guide, self.data, self.split)
        self.x, self.y = x[: self.num_data], None if y is None else y[: self.num_data]
        self.others = {k: v[: self.num_data] for k, v in others.items()}
        self.group = "class" if self.has_some_labels else "component"
        #: `[N]` labels, if every data point has one
        self.labels = self.y if self.y is not None and bool((self.y >= 0).all()) else None
        #: of the labels, of the frame's column; None if they are numbers
        self.label_names = label_names(self.data)
        self.conditional = "c" in self.others
        self.is_image = plots.is_image(tuple(self.as_shown(self.x[:1]).shape[1:]))

    def first_inputs(self, n: int) -> Inputs:
        """The first n rows of the further inputs."""
        return {k: v[:n] for k, v in self.others.items()}

    def example(self) -> Batch | None:
        """A batch for a program that does not sample by itself."""
        takes_size = accepts_argument(self.model, "size") or bool(
            interface_of(self.model, ModelInterface).covariates
        )
        return None if takes_size else {"x": self.x, **self.others}

    def own_arguments(self, size: int) -> dict[str, Any]:
        """What `sample` needs to draw `size` rows of a program that a user has written."""
        return summary.own_arguments(self.model, {"x": self.x, **self.others}, size)

    def as_shown(self, x: torch.Tensor) -> torch.Tensor:
        """The first rows of x as they are shown, or other x for the same covariates."""
        c = self.others.get("c")
        return joined(self.data, x, None if c is None else c[: len(x)])

    @cached_property
    def responsibilities(self) -> torch.Tensor | None:
        """`[N, K]` probabilities of the discrete latent y; None if there is none."""
        if not accepts_argument(self.model, "y") or "y" in self.others:
            return None
        return evaluate.responsibilities(
            self.model, self.guide, self.x, seed=self.seed, **self.others
        )

    @property
    def clusters(self) -> torch.Tensor | None:
        """`[N]` the most probable component, or class, of each data point."""
        return None if self.responsibilities is None else self.responsibilities.argmax(-1)

    @cached_property
    def order(self) -> np.ndarray:
        """`[K]` components in the order in which they are shown: by matched label, if there are labels."""
        assert self.responsibilities is not None
        k = self.responsibilities.shape[-1]
        if self.labels is None or self.has_some_labels:
            return np.arange(k)
        return plots.component_order(self.labels, self.responsibilities.argmax(-1), k)

    @cached_property
    def codes(self) -> dict[str, torch.Tensor]:
        """`{latent: [N, D]}` posterior means."""
        return evaluate.encode(self.model, self.guide, self.x, **self.others)

    @property
    def main_latent(self) -> str | None:
        """The continuous latent to show where one is shown; None if there is none."""
        return choose_latent(self.codes) if self.codes else None

    def components(self, latent: str) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Means `[K, D]` and covariances `[K, D, D]` of the prior's components; None if there are none.

        If the model samples y and then the latent given y, they are estimated from draws.
        """
        if self.conditional:
            return None
        conditional = conditional_of(self.model, latent)
        parents = conditional.given if isinstance(conditional, Conditional) else ()
        if "y" in parents and self.responsibilities is not None:
            k = self.responsibilities.shape[-1]
            y = torch.arange(k).repeat_interleave(COMPONENT_DRAWS)
            own = self.own_arguments(len(y))
            draws = sample(self.model, len(y), y=y, site=latent, seed=self.seed, **own)
            draws = draws.reshape(k, COMPONENT_DRAWS, -1).double()
            centered = draws - draws.mean(1, keepdim=True)
            return draws.mean(1), centered.mT @ centered / (COMPONENT_DRAWS - 1)
        try:
            name, prior = prior_of(self.model, latent)
        except UserError:  # it has parents
            return None
        with torch.no_grad():
            mixture = prior()
        if name != latent or not isinstance(mixture, MixtureSameFamily):
            return None
        weights = mixture.mixture_distribution.probs
        largest = weights.argsort(descending=True, stable=True)[:MOST_ELLIPSES]
        normal = mixture.component_distribution
        if isinstance(normal, (MultivariateNormal, LowRankMultivariateNormal)):
            covariances = normal.covariance_matrix[largest]
        else:
            covariances = torch.diag_embed(normal.variance[largest])
        return normal.mean[largest].detach(), covariances.detach()


class ReportContext(PairContext):
    """A trained pair, one split of its data, and its numbers.

    Args:
        model, guide: the pair.
        data: that it was trained on.
        result: as `summary.summarize` returns it, for the split to show.
        seed: of all draws.
    """

    def __init__(
        self, model: Callable, guide: Callable, data: Data, result: Mapping, seed: int
    ) -> None:
        super().__init__(model, guide, data, result["split"], seed, "classification" in result)
        self.result = result
        others = {"x", *result.get("other_terms", {})}
        self.latent_kls = {k: -v for k, v in result["terms"].items() if k not in others}
        self.white = plots.white_of(data.train.x)
        self.infers = bool(self.latent_kls) and not isinstance(guide, PriorGuide)
