"""One run of a pair, with the log-probability of every site: what bounds and diagnostics are made of."""

import copy
import math
from numbers import Number

import torch

from .._pyro_internals import ENUMERATE_DIM, PARTICLES
from ..errors import UserError
from .sites import check_data_plate, is_factor, is_latent, is_point, is_random, is_subsample


class Traces:
    """One run of guide and model, discrete sites enumerated; log-probs `[enum..., (S,) B]`.

    Enumerated dimensions lie left of the particle and data dimensions, each site's in one of its
    own. The probability of a combination of enumerated values is q where the guide enumerates, and
    the exact conditional posterior where the model does.

    Log-probs are unscaled, and so are probabilities and importance weights. A site's scale (of a
    subsampled plate, of `poutine.scale`) multiplies a finished term, once: see `site_terms` and
    `common_scale`. A mask removes a log-prob from the terms. It does not change how a value is
    drawn or summed.
    """

    def __init__(self, model_trace, guide_trace, event_dims=1):
        self.model = {n: s for n, s in model_trace.nodes.items() if is_random(s)}
        self.factors = {n: s for n, s in model_trace.nodes.items() if is_factor(s)}
        # what a guide observes is no draw: its density is no part of q
        self.guide = {n: s for n, s in guide_trace.nodes.items() if is_latent(s)}
        self.event_dims = event_dims
        self.enumerated_guide = {
            n: s["infer"][ENUMERATE_DIM]
            for n, s in self.guide.items()
            if s["infer"].get(ENUMERATE_DIM) is not None
        }
        self.enumerated_model = {
            n: s["infer"][ENUMERATE_DIM]
            for n, s in self.model.items()
            if s["infer"].get(ENUMERATE_DIM) is not None and n not in self.guide
        }
        self.enumerated = {**self.enumerated_guide, **self.enumerated_model}
        self.auxiliary = {  # what the guide alone samples: the latent that it is part of, else itself
            n: _owner(n, s, self.model) for n, s in self.guide.items() if n not in self.model
        }
        check_data_plate(self.model, ignored=(PARTICLES,))

    @property
    def size(self):
        """B, the number of data."""
        return max(self.log_prob(site).shape[-1] for site in self.model.values())

    def log_prob(self, site):
        """`[enum..., (S,) B]`, unscaled; masked elements zero.

        The probabilities of a latent that the model sums are not masked: their sum is one.
        """
        value, mask = site["unscaled_log_prob"], site["mask"]
        summed = any(site is self.model[name] for name in self.enumerated_model)
        if mask is None or mask is True or summed:
            return value
        return torch.where(torch.as_tensor(mask, device=value.device), value, value.new_zeros(()))

    def common_scale(self, names=None, why="the objective"):
        """The one scale of these sites, of model and guide (Default: of all).

        Raises:
            UserError: their scales differ.
        """
        sites = [
            site
            for program in (self.model, self.guide)
            for name, site in program.items()
            if names is None or name in names
        ]
        return _one_scale(sites, why)

    def _log_posterior(self):
        """`{site: log p(site | earlier ones, all the rest)}` over model-enumerated sites."""
        if not self.enumerated_model:
            return {}
        dims = list(self.enumerated_model.items())
        # What no enumerated value reaches cancels; left in, hundreds of nats would cost digits.
        joint = sum(self.log_prob(self.model[name]) for name in self._reached())
        result, before = {}, joint.logsumexp([d for _, d in dims], keepdim=True)
        for i, (name, _) in enumerate(dims):
            later = [d for _, d in dims[i + 1 :]]
            upto = joint.logsumexp(later, keepdim=True) if later else joint
            result[name] = upto - before
            before = upto
        return result

    def _reached(self):
        """The model's sites that depend on a latent that the model sums, it among them."""
        dims = self.enumerated_model.values()

        def is_wide(value):
            return any(value.dim() >= -d and value.shape[d] > 1 for d in dims)

        return [
            name
            for name, site in self.model.items()
            if name in self.enumerated_model or is_wide(site["unscaled_log_prob"])
        ]

    def _weights(self, posterior):
        """Probability of each combination of enumerated values, `[enum..., (S,) B]`, or None."""
        if not self.enumerated:
            return None
        log_w = sum(self.guide[n]["unscaled_log_prob"] for n in self.enumerated_guide)
        return (log_w + sum(posterior.values())).exp()

    def site_terms(self, analytic_kl=False, scaled=False):
        r"""`{site: [(S,) B]}` in nats, summing to the ELBO; differentiable.

        An observed site: :math:`E \log p`. A latent: :math:`E[\log p - \log q]`, minus its KL. A
        latent summed in the model: minus the KL of its exact posterior to its prior. What the guide
        samples besides (a mixture's component, an AutoNormal's unconstrained value) counts with the
        latent that it is part of.

        With `analytic_kl`, a latent's KL given its parents is in closed form instead of a sample of it:
        where torch has one, and its prior depends on no latent that the model sums, or that the guide
        samples after it.

        With `scaled`, each log-prob is multiplied by its site's scale, as in Pyro's ELBOs. The
        probabilities of enumerated values are not.

        Raises:
            UserError: with `scaled`, sites of different scales beneath a latent that the model sums.
        """
        posterior = self._log_posterior()
        weights = self._weights(posterior)
        if posterior and scaled:
            summed = f"the sum over {', '.join(map(repr, posterior))} in the model"
            common = _one_scale([self.model[name] for name in self._reached()], summed)

        def with_scale(value, scale):
            return value if not scaled or _is_one(scale) else value * scale

        terms = {}
        gains = {n: with_scale(self.log_prob(s), s["scale"]) for n, s in self.model.items()}
        for name, site in self.guide.items():
            owner = self.auxiliary.get(name, name)
            log_q = with_scale(self.log_prob(site), site["scale"])
            gains[owner] = gains.get(owner, 0.0) - log_q
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

    def elbo(self):
        """`[(S,) B]`: the sum of `site_terms`."""
        return sum(self.site_terms().values())

    def _closed_form(self, name):
        """`[enum..., (S,) B]`: KL(q || p) of a latent, unscaled; None where a sample must do."""
        if name not in self.guide or name in (*self.enumerated, *self.auxiliary.values()):
            return None
        p, q = self.model[name], self.guide[name]
        order, before = list(self.guide), list(self.model)[: list(self.model).index(name)]
        if any(n in self.guide and order.index(n) > order.index(name) for n in before):
            return None  # q of that parent may depend on the value: an expectation of both
        summed = [d for d in self.enumerated_model.values() if p["log_prob"].dim() >= -d]
        if any(p["log_prob"].shape[d] > 1 for d in summed):
            return None
        if p["mask"] is not None or q["mask"] is not None or not _same(p["scale"], q["scale"]):
            return None
        try:
            return _of_each_run(p, torch.distributions.kl_divergence, q, p)
        except NotImplementedError:
            return None

    def expectation(self, value, shape=()):
        """`E[value]` over the enumerated latents, for a value `[enum..., (S,) B, *shape]`."""
        weights = self._weights(self._log_posterior())
        if weights is None:
            return value
        n = len(shape)
        value = value * weights.reshape(weights.shape + (1,) * n)
        dims = [d - n for d in self.enumerated.values() if value.dim() >= n - d]
        value = value.sum(dims, keepdim=True) if dims else value
        return value.reshape(value.shape[-self.event_dims - n :])

    def probabilities(self, name):
        """Probabilities of one enumerated latent, `[(S,) B, K]`, its axis put last."""
        keep = self.enumerated[name]
        others = [d for n, d in self.enumerated.items() if n != name]
        weights = self._weights(self._log_posterior())
        others = [d for d in others if weights.dim() >= -d]
        if others:
            weights = weights.sum(others, keepdim=True)
        return weights.movedim(keep, -1).reshape(weights.shape[-self.event_dims :] + (-1,))

    def enumerated_assignment(self, most_probable=False):
        """A value of every enumerated latent for each data point, as indices `[(S,) B]` a latent.

        Drawn from their joint probabilities, or the most probable. For `select`.
        """
        weights = self._weights(self._log_posterior())
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

    def select(self, value, shape, enumerated_assignment):
        """Of a value `[enum..., (S,) B, *shape]`, that of the `combination`: `[(S,) B, *shape]`."""
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

    @property
    def sampled(self):
        """The guide's sites that are drawn, not enumerated: `{name: site}`."""
        return {n: s for n, s in self.guide.items() if n not in self.enumerated_guide}

    def draws(self):
        """The values that the guide drew, run by run, each after those that it depends on."""
        runs = zip(*(s.get("values", [s["value"]]) for s in self.sampled.values()), strict=True)
        return list({id(value): value for run in runs for value in run}.values())

    def factor_term(self):
        """The model's `pyro.factor`s, scaled: their sum over the data, averaged over particles.

        They are part of what is maximized, as in Pyro's ELBOs, and no part of any likelihood.
        """
        total = 0.0
        for site in self.factors.values():
            value = site["log_prob"]
            if any(frame.dim == -1 for frame in site["cond_indep_stack"]):
                value = self.expectation(value)
            if value.dim() > 1 and self.event_dims > 1:
                value = value.mean(-2)
            total = total + value.sum()
        return total

    def log_weights(self):
        r"""`[enum..., (S,) B]`: :math:`\log p(x, z, y) - \log q(z | y, x)`, a value of y each.

        The model's joint over the density of the guide's *sampled* sites only.
        """
        self._check_density()
        log_p = sum(self.log_prob(s) for s in self.model.values())
        for name in self.enumerated_guide:  # where q(y) is masked, so is p(y): the sum is E_q
            site = self.guide[name]
            if site["mask"] is not None:
                log_p = log_p + site["unscaled_log_prob"] - self.log_prob(site)
        return log_p - sum(self.log_prob(s) for s in self.sampled.values())

    def _check_density(self):
        """Raise where the guide is a point: a Delta that no auxiliary draw stands behind."""
        for name, site in self.sampled.items():
            behind = any(owner in (name, n) for n, owner in self.auxiliary.items())
            if is_point(site) and not behind:
                raise UserError(
                    f"the guide puts {name!r} at a point: it has no density, and so there are no "
                    "importance weights and no bound on log p(x)"
                )

    def log_weight(self):
        r"""`[S, B]`: :math:`\log \sum_y p(x, z, y) / q(z | y, x)`, unbiased for p(x) once exp'd."""
        log_w = self.log_weights()
        left = list(range(log_w.dim() - self.event_dims))
        return log_w.logsumexp(left) if left else log_w

    def of_distribution(self, name, function):
        """`[enum..., (S,) B, *event]`: `function` of the distribution of one of the model's sites."""
        site = self.model[name]
        return _of_each_run(site, function, site, event_dim=len(site["fn"].event_shape))

    def with_detached_log_probs(self, names):
        """The same run, in which the log-probs of these sites of the guide are constants."""
        new = copy.copy(self)
        keys = ("log_prob", "unscaled_log_prob")
        held = {n: {**self.guide[n], **{k: self.guide[n][k].detach() for k in keys}} for n in names}
        new.guide = {**self.guide, **held}
        return new


def _of_each_run(site, function, *sites, event_dim=0):
    """`function` of the sites' distributions, of every run that a gathered site comes from."""
    if "runs" not in site:
        return function(*(s["fn"] for s in sites))
    stack = site["runs"][1]
    every = zip(*(s["runs"][0] for s in sites), strict=True)
    return stack([function(*distributions) for distributions in every], event_dim)


def _owner(name, site, model):
    """The model's latent that an auxiliary site of the guide is part of; else its own name.

    A `Guide` says so; the sites of Pyro's AutoNormal go by their names.
    """
    if not site["infer"].get("is_auxiliary") and not is_subsample(site):
        raise UserError(f"the guide samples {name!r}, which the model never does")
    owner = site["infer"].get("part_of", name.removesuffix("_unconstrained"))
    return owner if owner in model else name


def _same(a, b):
    """Whether two scales are equal, up to the rounding of their factors' order."""
    if a is b:
        return True
    if torch.is_tensor(a) or torch.is_tensor(b):
        return bool(((a - b).abs() <= 1e-5 * (a.abs() if torch.is_tensor(a) else abs(a))).all())
    return math.isclose(a, b, rel_tol=1e-9)


def _is_one(scale):
    return isinstance(scale, Number) and scale == 1


def _one_scale(sites, why):
    """The scale that all of these sites have."""
    scales = [site["scale"] for site in sites]
    if any(not _same(scales[0], scale) for scale in scales[1:]):
        raise UserError(
            f"{why} needs one scale at every site that it joins: no poutine.scale on some of them "
            "(beta= weighs the KL of single latents)"
        )
    return scales[0]
