"""One run of a pair with discrete latents enumerated: log-probs, and expectations over their values."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch

from .._pyro_internals import ENUMERATE_DIM, PARTICLES
from ..errors import UserError
from .sites import (
    Site,
    check_data_plate,
    is_factor,
    is_latent,
    is_per_row,
    is_random,
    is_subsample,
    masked_as,
    with_mask_apart,
)


class EnumeratedRun:
    """One run of guide and model, discrete sites enumerated; log-probs `[enum..., (S,) B]`.

    Each enumerated site has a dimension to the left of the particles and the data. The probability of a
    combination of enumerated values is q where the guide enumerates, and the exact conditional
    posterior where the model does. All log-probs are unscaled. A mask removes a log-prob from the
    terms; it does not change how a value is drawn or summed. Where it says that a latent does not exist
    (`absent`, of `Layout`), it removes log q, too.
    """

    def __init__(
        self,
        model_sites: Mapping[str, Site],
        guide_sites: Mapping[str, Site],
        grid: Any,
        event_dims: int,
        absent: Collection[str],
    ) -> None:
        self.grid, self.event_dims = grid, event_dims
        self.model = {n: s for n, s in model_sites.items() if is_random(s)}
        # factors outside the data plate, such as a penalty of the weights, are of no data point
        in_model, self.factors_outside = _factors(model_sites)
        self.guide_factors, self.guide_factors_outside = _factors(guide_sites)
        self.scored = {**self.model, **in_model}  #: what the model's log-density is the sum of
        # what a guide observes is no draw: its density is no part of q
        self.guide = {n: s for n, s in guide_sites.items() if is_latent(s)}
        self.enumerated_guide = {
            n: s["infer"][ENUMERATE_DIM]
            for n, s in self.guide.items()
            if s["infer"].get(ENUMERATE_DIM) is not None
        }
        for name in self.enumerated_guide:
            self.guide[name] = with_mask_apart(self.guide[name])
        owners = {
            n: n if n in self.model else _owner(n, s, self.model) for n, s in self.guide.items()
        }
        # Where a latent does not exist, q of its value integrates to one, and has no term either: its
        # log q alone would make the bound as large as q is narrow.
        self.guide = {
            n: masked_as(s, self.model[owners[n]]) if owners[n] in absent else s
            for n, s in self.guide.items()
        }
        self.enumerated_model = {
            n: s["infer"][ENUMERATE_DIM]
            for n, s in self.model.items()
            if s["infer"].get(ENUMERATE_DIM) is not None and n not in self.guide
        }
        self.enumerated = {**self.enumerated_guide, **self.enumerated_model}
        # what the guide alone samples: the latent that it is part of, else itself
        self.auxiliary = {n: owner for n, owner in owners.items() if n not in self.model}
        check_data_plate(self.model, ignored=(PARTICLES,))

    @property
    def size(self) -> int:
        """B, the number of data points."""
        return max(self.log_prob(site).shape[-1] for site in self.model.values())

    def log_prob(self, site: Site) -> torch.Tensor:
        """`[enum..., (S,) B]`, unscaled; masked elements zero.

        The probabilities of a latent that the model sums are not masked: their sum is one.
        """
        value, mask = site["unscaled_log_prob"], site["mask"]
        summed = any(site is self.model[name] for name in self.enumerated_model)
        if mask is None or mask is True or summed:
            return value
        return torch.where(torch.as_tensor(mask, device=value.device), value, value.new_zeros(()))

    def log_posterior(self) -> dict[str, torch.Tensor]:
        """`{site: log p(site | earlier ones, all the rest)}` over model-enumerated sites."""
        if not self.enumerated_model:
            return {}
        dims = list(self.enumerated_model.items())
        # What no enumerated value reaches cancels; left in, hundreds of nats would cost digits.
        joint = torch.as_tensor(sum(self.log_prob(self.scored[n]) for n in self.reached()))
        result, before = {}, joint.logsumexp([d for _, d in dims], keepdim=True)
        for i, (name, _) in enumerate(dims):
            later = [d for _, d in dims[i + 1 :]]
            upto = joint.logsumexp(later, keepdim=True) if later else joint
            result[name] = upto - before
            before = upto
        return result

    def reached(self) -> list[str]:
        """The model's sites that depend on a latent that the model sums, it among them."""
        dims = self.enumerated_model.values()

        def is_wide(value: torch.Tensor) -> bool:
            return any(value.dim() >= -d and value.shape[d] > 1 for d in dims)

        return [
            name
            for name, site in self.scored.items()
            if name in self.enumerated_model or is_wide(site["unscaled_log_prob"])
        ]

    def weights(self, posterior: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
        """Probability of each combination of enumerated values, `[enum..., (S,) B]`, or None."""
        if not self.enumerated:
            return None
        log_w = sum(self.guide[n]["unscaled_log_prob"] for n in self.enumerated_guide)
        return (log_w + sum(posterior.values())).exp()

    def expectation(self, value: torch.Tensor, shape: Sequence[int] = ()) -> torch.Tensor:
        """`E[value]` over the enumerated latents, for a value `[enum..., (S,) B, *shape]`."""
        weights = self.weights(self.log_posterior())
        if weights is None:
            return value
        n = len(shape)
        value = value * weights.reshape(weights.shape + (1,) * n)
        dims = [d - n for d in self.enumerated.values() if value.dim() >= n - d]
        value = value.sum(dims, keepdim=True) if dims else value
        return value.reshape(value.shape[-self.event_dims - n :])

    def probabilities(self, name: str) -> torch.Tensor:
        """Probabilities of one enumerated latent, `[(S,) B, K]`, its axis put last."""
        keep = self.enumerated[name]
        others = [d for n, d in self.enumerated.items() if n != name]
        weights = torch.as_tensor(self.weights(self.log_posterior()))
        others = [d for d in others if weights.dim() >= -d]
        if others:
            weights = weights.sum(others, keepdim=True)
        return weights.movedim(keep, -1).reshape(weights.shape[-self.event_dims :] + (-1,))

    def enumerated_assignment(self, most_probable: bool = False) -> tuple[torch.Tensor, ...]:
        """A value of every enumerated latent for each data point, as indices `[(S,) B]` per latent.

        Drawn from their joint probabilities, or the most probable. For `select`.
        """
        weights = self.weights(self.log_posterior())
        if weights is None:
            return ()
        weights = weights.expand(weights.shape[:-1] + (self.size,))
        enumerated = weights.shape[: -self.event_dims]
        flat = weights.reshape((-1,) + weights.shape[-self.event_dims :]).movedim(0, -1)
        if most_probable:
            flat = flat.argmax(-1)
        else:
            flat = torch.distributions.Categorical(flat, validate_args=False).sample()
        return torch.unravel_index(flat, enumerated)

    def select(
        self,
        value: torch.Tensor,
        shape: Sequence[int],
        enumerated_assignment: Sequence[torch.Tensor],
    ) -> torch.Tensor:
        """Of a value `[enum..., (S,) B, *shape]`, that at the `enumerated_assignment`: `[(S,) B, *shape]`."""
        if not enumerated_assignment:
            return value
        rows = enumerated_assignment[0].shape
        sizes = [1] * len(enumerated_assignment)
        for i, d in enumerate(
            range(-self.event_dims - len(enumerated_assignment), -self.event_dims)
        ):
            if value.dim() - len(shape) >= -d:
                sizes[i] = value.shape[d - len(shape)]
        value = value.expand((*sizes, *rows, *shape))
        picked = [
            c if n > 1 else torch.zeros_like(c)
            for c, n in zip(enumerated_assignment, sizes, strict=True)
        ]
        grid = torch.meshgrid(*(torch.arange(n, device=value.device) for n in rows), indexing="ij")
        return value[(*picked, *grid)]


def _factors(sites: Mapping[str, Site]) -> tuple[dict[str, Site], dict[str, Site]]:
    """The factors among the sites of a trace: those in the data plate alone, and the others."""
    factors = {n: s for n, s in sites.items() if is_factor(s)}
    inside = {n: s for n, s in factors.items() if is_per_row(s, ignored=(PARTICLES,))}
    return inside, {n: s for n, s in factors.items() if n not in inside}


def _owner(name: str, site: Site, model: Mapping[str, Site]) -> str:
    """The model's latent that an auxiliary site of the guide is part of; else its own name.

    A `Guide` says so; the sites of Pyro's AutoNormal go by their names.
    """
    if not site["infer"].get("is_auxiliary") and not is_subsample(site):
        raise UserError(f"the guide samples {name!r}, which the model never does")
    owner = site["infer"].get("part_of", name.removesuffix("_unconstrained"))
    return owner if owner in model else name
