"""One run of a pair, with the log-probability of every site: what bounds and diagnostics are made of."""

import copy
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Self

import torch

from ..errors import UserError
from .enumerated import EnumeratedRun
from .sites import Site, is_point


class Traces(EnumeratedRun):
    """An `EnumeratedRun`, with the terms of its bound and its importance weights.

    Log-probs, probabilities and importance weights are unscaled. A site's scale (of a subsampled plate,
    of `poutine.scale`) multiplies a finished term, once: see `site_terms` and `common_scale`.
    """

    def common_scale(
        self, names: Collection[str] | None = None, why: str = "the objective"
    ) -> torch.Tensor | float:
        """The one scale of these sites, of model and guide (Default: all).

        Raises:
            UserError: their scales differ.
        """
        sites = [
            site
            for program in (self.scored, self.guide)
            for name, site in program.items()
            if names is None or name in names
        ]
        return _one_scale(sites, why)

    def site_terms(
        self, analytic_kl: bool = False, scaled: bool = False, guide_factors: bool = True
    ) -> dict[str, torch.Tensor]:
        r"""`{site: [(S,) B]}` in nats, summing to the ELBO; differentiable.

        An observed site: :math:`E \log p`. A latent: :math:`E[\log p - \log q]`, minus its KL. A
        latent that is enumerated in the model: minus the KL of its exact posterior to its prior. What the guide
        samples in addition (a mixture's component, an AutoNormal's unconstrained value) counts with the
        latent that it is part of.

        With `analytic_kl`, a latent's KL given its parents is in closed form instead of a sample of it:
        where torch has one, and its prior depends on no latent that the model sums, or that the guide
        samples after it.

        With `scaled`, each log-prob is multiplied by its site's scale, as in Pyro's ELBOs. The
        probabilities of enumerated values are not.

        A factor in the data plate has its expectation. One in the guide, such as a classifier's loss,
        counts as a part of log q, as in Pyro's ELBOs; without `guide_factors` it is left out.

        Raises:
            UserError: with `scaled`, sites of different scales beneath a latent that the model sums.
        """
        posterior = self.log_posterior()
        weights = self.weights(posterior)
        if posterior and scaled:
            summed = f"the sum over {', '.join(map(repr, posterior))} in the model"
            common = _one_scale([self.scored[name] for name in self.reached()], summed)

        def with_scale(value: torch.Tensor, scale: torch.Tensor | float) -> torch.Tensor:
            return value if not scaled or _is_one(scale) else value * scale

        terms = {}
        gains = {n: with_scale(self.log_prob(s), s["scale"]) for n, s in self.scored.items()}
        for name, site in self.guide.items():
            owner = self.auxiliary.get(name, name)
            log_q = with_scale(self.log_prob(site), site["scale"])
            gains[owner] = gains.get(owner, 0.0) - log_q
        for name, site in self.guide_factors.items() if guide_factors else ():
            log_q = with_scale(self.log_prob(site), site["scale"])
            gains[name] = gains.get(name, 0.0) - log_q
        for name, log_posterior in posterior.items():
            gains[name] = gains[name] - with_scale(log_posterior, common if scaled else 1.0)
        if analytic_kl:
            closed = {name: self._closed_form(name) for name in self.model}
            gains |= {
                name: -with_scale(kl, self.model[name]["scale"])
                for name, kl in closed.items()
                if kl is not None
            }
        for name, term in gains.items():
            if weights is not None:
                # A combination of probability 0 contributes 0, also where its log-prob is -inf.
                term = torch.where(weights > 0, term, term.new_zeros(())) * weights
                dims = [d for d in self.enumerated.values() if term.dim() >= -d]
                term = term.sum(dims, keepdim=True)
                term = term.reshape(term.shape[-self.event_dims :])
            terms[name] = term
        return terms

    def elbo(self) -> torch.Tensor:
        """`[(S,) B]`: the bound that q gives; the guide's factors are no part of it."""
        return torch.as_tensor(sum(self.site_terms(guide_factors=False).values()))

    def _closed_form(self, name: str) -> torch.Tensor | None:
        """`[enum..., (S,) B]`: KL(q || p) of a latent, unscaled; None where a sample must do."""
        if not self.has_kl_given_parents(name):
            return None
        p, q = self.model[name], self.guide[name]
        try:
            return _of_each_run(p, torch.distributions.kl_divergence, q, p)
        except NotImplementedError:
            return None

    def has_kl_given_parents(self, name: str) -> bool:
        """Whether E[log q - log p] of a latent, given its parents' draws, is KL(q || p).

        It is not where p depends on what depends on the value: on a latent that the guide samples
        later, or that the model sums.
        """
        if name not in self.guide or name in (*self.enumerated, *self.auxiliary.values()):
            return False
        p, q = self.model[name], self.guide[name]
        order, before = list(self.guide), list(self.model)[: list(self.model).index(name)]
        if any(n in self.guide and order.index(n) > order.index(name) for n in before):
            return False  # q of that parent may depend on the value: an expectation of both
        summed = [d for d in self.enumerated_model.values() if p["log_prob"].dim() >= -d]
        if any(p["log_prob"].shape[d] > 1 for d in summed):
            return False
        return p["mask"] is None and q["mask"] is None and _same(p["scale"], q["scale"])

    @property
    def sampled(self) -> dict[str, Site]:
        """The guide's sites that are drawn, not enumerated: `{name: site}`."""
        return {n: s for n, s in self.guide.items() if n not in self.enumerated_guide}

    def draws(self) -> list[torch.Tensor]:
        """The values that the guide drew, run by run, each after those that it depends on."""
        runs = zip(*(s.get("values", [s["value"]]) for s in self.sampled.values()), strict=True)
        return list({id(value): value for run in runs for value in run}.values())

    def outside_term(self) -> torch.Tensor | float:
        """The factors outside the data plate, scaled: the model's less the guide's.

        They are part of what is maximized, as in Pyro's ELBOs, and of no data point's bound.
        """

        def total(sites: Mapping[str, Site]) -> torch.Tensor | float:
            values = [site["log_prob"] for site in sites.values()]
            if self.event_dims > 1:
                values = [v.mean(-2) if v.dim() > 1 else v for v in values]
            return sum(v.sum() for v in values)

        return total(self.factors_outside) - total(self.guide_factors_outside)

    def log_weights(self) -> torch.Tensor:
        r"""`[enum..., (S,) B]`: :math:`\log p(x, z, y) - \log q(z | y, x)`, a value of y each.

        The model's joint over the density of the guide's *sampled* sites only.
        """
        self._check_density()
        log_p = torch.as_tensor(sum(self.log_prob(s) for s in self.scored.values()))
        for name in self.enumerated_guide:  # where q(y) is masked, so is p(y): the sum is E_q
            site = self.guide[name]
            if site["mask"] is not None:
                log_p = log_p + site["unscaled_log_prob"] - self.log_prob(site)
        return log_p - sum(self.log_prob(s) for s in self.sampled.values())

    def _check_density(self) -> None:
        """Raise where the guide is a point."""
        for name in self.points():
            raise UserError(
                f"the guide puts {name!r} at a point: it has no density, and so there are no "
                "importance weights and no bound on log p(x)"
            )

    def points(self) -> list[str]:
        """The latents that the guide puts at a point: a Delta that no auxiliary draw stands behind."""
        return [
            name
            for name, site in self.sampled.items()
            if is_point(site) and not any(o in (name, n) for n, o in self.auxiliary.items())
        ]

    def log_weight(self) -> torch.Tensor:
        r"""`[S, B]`: :math:`\log \sum_y p(x, z, y) / q(z | y, x)`, unbiased for p(x) once exp'd."""
        log_w = self.log_weights()
        left = list(range(log_w.dim() - self.event_dims))
        return log_w.logsumexp(left) if left else log_w

    def of_distribution(self, name: str, function: Callable) -> torch.Tensor:
        """`[enum..., (S,) B, *event]`: `function` of the distribution of one of the model's sites."""
        site = self.model[name]
        return _of_each_run(site, function, site, event_dim=len(site["fn"].event_shape))

    def with_detached_log_probs(self, names: Collection[str]) -> Self:
        """The same run, in which the log-probs of these sites of the guide are constants."""
        new = copy.copy(self)
        keys = ("log_prob", "unscaled_log_prob")
        held = {n: {**self.guide[n], **{k: self.guide[n][k].detach() for k in keys}} for n in names}
        new.guide = {**self.guide, **held}
        return new


def _of_each_run(site: Site, function: Callable, *sites: Site, event_dim: int = 0) -> torch.Tensor:
    """`function` of the sites' distributions, of every run that a gathered site comes from."""
    if "runs" not in site:
        return function(*(s["fn"] for s in sites))
    stack = site["runs"][1]
    every = zip(*(s["runs"][0] for s in sites), strict=True)
    return stack([function(*distributions) for distributions in every], event_dim)


def _same(a: torch.Tensor | float, b: torch.Tensor | float) -> bool:
    """Whether two scales are equal, up to the rounding of their factors' order."""
    if a is b:
        return True
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        difference, size = torch.as_tensor(a - b).abs(), torch.as_tensor(a).abs()
        return bool((difference <= 1e-5 * size).all())
    return math.isclose(a, b, rel_tol=1e-9)


def _is_one(scale: torch.Tensor | float) -> bool:
    return not isinstance(scale, torch.Tensor) and scale == 1


def _one_scale(sites: Sequence[Site], why: str) -> torch.Tensor | float:
    """The scale that all of these sites have."""
    scales = [site["scale"] for site in sites]
    if any(not _same(scales[0], scale) for scale in scales[1:]):
        raise UserError(
            f"{why} needs one scale at every site that it joins: no poutine.scale on some of them "
            "(beta= weighs the KL of single latents)"
        )
    return scales[0]
