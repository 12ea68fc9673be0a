"""One run of a pair, with the log-probability of every site: what bounds and judges are made of."""

import copy

import torch

from .errors import UserError
from .pair import is_factor, is_latent, is_random, is_subsample
from .sites import check_data_plate

PARTICLES = "num_particles_vectorized"  # the name that Pyro's own ELBOs give this plate


class Traces:
    """One run of guide and model, discrete sites enumerated; log-probs `[enum..., (S,) B]`.

    Enumerated dimensions lie left of the particle and data dimensions, each site's in one of its
    own. `weights()` are the probabilities of their combinations: q where the guide enumerates,
    the exact conditional posterior where the model does.
    """

    def __init__(self, model_trace, guide_trace, event_dims=1, scaled=False):
        self.model = {n: s for n, s in model_trace.nodes.items() if is_random(s)}
        self.factors = {n: s for n, s in model_trace.nodes.items() if is_factor(s)}
        # what a guide observes is no draw: its density is no part of q
        self.guide = {n: s for n, s in guide_trace.nodes.items() if is_latent(s)}
        self.event_dims, self.scaled = event_dims, scaled
        self.enumerated_guide = {
            n: s["infer"]["_enumerate_dim"]
            for n, s in self.guide.items()
            if s["infer"].get("_enumerate_dim") is not None
        }
        self.enumerated_model = {
            n: s["infer"]["_enumerate_dim"]
            for n, s in self.model.items()
            if s["infer"].get("_enumerate_dim") is not None and n not in self.guide
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
        """`[enum..., (S,) B]`; unscaled unless asked, masked elements zero."""
        if self.scaled:
            return site["log_prob"]
        value = site["unscaled_log_prob"]
        mask = site["mask"]
        if mask is None or mask is True:
            return value
        return torch.where(torch.as_tensor(mask, device=value.device), value, value.new_zeros(()))

    def _log_posterior(self):
        """`{site: log p(site | earlier ones, all the rest)}` over model-enumerated sites."""
        if not self.enumerated_model:
            return {}
        dims = list(self.enumerated_model.items())

        def reached(name, p):
            wide = any(p.dim() >= -d and p.shape[d] > 1 for _, d in dims)
            return wide or name in self.enumerated_model

        # What no enumerated value reaches cancels; left in, hundreds of nats would cost digits.
        log_probs = {name: self.log_prob(site) for name, site in self.model.items()}
        joint = sum(p for name, p in log_probs.items() if reached(name, p))
        result, before = {}, joint.logsumexp([d for _, d in dims], keepdim=True)
        for i, (name, _) in enumerate(dims):
            later = [d for _, d in dims[i + 1 :]]
            upto = joint.logsumexp(later, keepdim=True) if later else joint
            result[name] = upto - before
            before = upto
        return result

    def _weights(self, posterior):
        """Probability of each combination of enumerated values, `[enum..., (S,) B]`, or None."""
        if not self.enumerated:
            return None
        log_w = sum(self.log_prob(self.guide[n]) for n in self.enumerated_guide)
        return (log_w + sum(posterior.values())).exp()

    def site_terms(self, analytic_kl=False):
        r"""`{site: [(S,) B]}` in nats, summing to the ELBO; differentiable.

        An observed site: :math:`E \log p`. A latent: :math:`E[\log p - \log q]`, minus its KL. A
        latent summed in the model: minus the KL of its exact posterior to its prior. What the guide
        samples besides (a mixture's component, an AutoNormal's unconstrained value) counts with the
        latent that it is part of.

        With `analytic_kl`, a latent's KL given its parents is in closed form instead of a sample of it:
        where torch has one, and its prior depends on no latent that the model sums, or that the guide
        samples after it.
        """
        posterior = self._log_posterior()
        weights = self._weights(posterior)
        terms = {}
        gains = {name: self.log_prob(site) for name, site in self.model.items()}
        for name, site in self.guide.items():
            owner = self.auxiliary.get(name, name)
            gains[owner] = gains.get(owner, 0.0) - self.log_prob(site)
        for name, log_posterior in posterior.items():
            gains[name] = gains[name] - log_posterior
        if analytic_kl:
            closed = {name: self._closed_form(name) for name in self.model}
            gains |= {name: -kl for name, kl in closed.items() if kl is not None}
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
        """`[enum..., (S,) B]`: KL(q || p) of a latent's two laws; None where a sample must do."""
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
            kl = torch.distributions.kl_divergence(q["fn"], p["fn"])
        except NotImplementedError:
            return None
        return kl * p["scale"] if self.scaled else kl

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

    def combination(self, most_probable=False):
        """A value of every enumerated latent for each datum, as indices `[(S,) B]` a latent.

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

    def select(self, value, shape, combination):
        """Of a value `[enum..., (S,) B, *shape]`, that of the `combination`: `[(S,) B, *shape]`."""
        if not combination:
            return value
        rows = combination[0].shape
        sizes = [1] * len(combination)
        for i, d in enumerate(range(-self.event_dims - len(combination), -self.event_dims)):
            if value.dim() - len(shape) >= -d:
                sizes[i] = value.shape[d - len(shape)]
        value = value.expand((*sizes, *rows, *shape))
        picked = [
            c if n > 1 else torch.zeros_like(c) for c, n in zip(combination, sizes, strict=True)
        ]
        grid = torch.meshgrid(*(torch.arange(n, device=value.device) for n in rows), indexing="ij")
        return value[(*picked, *grid)]

    @property
    def sampled(self):
        """The guide's sites that are drawn, not enumerated: `{name: site}`."""
        return {n: s for n, s in self.guide.items() if n not in self.enumerated_guide}

    def log_weights(self):
        r"""`[enum..., (S,) B]`: :math:`\log p(x, z, y) - \log q(z | y, x)`, a value of y each.

        The model's joint over the density of the guide's *sampled* sites only.
        """
        log_p = sum(self.log_prob(s) for s in self.model.values())
        return log_p - sum(self.log_prob(s) for s in self.sampled.values())

    def log_weight(self):
        r"""`[S, B]`: :math:`\log \sum_y p(x, z, y) / q(z | y, x)`, unbiased for p(x) once exp'd."""
        log_w = self.log_weights()
        left = list(range(log_w.dim() - self.event_dims))
        return log_w.logsumexp(left) if left else log_w

    def of_distribution(self, name, function):
        """`[enum..., (S,) B, *event]`: `function` of the distribution of one of the model's sites."""
        site = self.model[name]
        if "runs" not in site:
            return function(site["fn"])
        distributions, stack = site["runs"]
        return stack([function(fn) for fn in distributions], len(site["fn"].event_shape))

    def holding(self, names):
        """The same run, in which the log-probs of these sites of the guide are constants."""
        new = copy.copy(self)
        keys = ("log_prob", "unscaled_log_prob")
        held = {n: {**self.guide[n], **{k: self.guide[n][k].detach() for k in keys}} for n in names}
        new.guide = {**self.guide, **held}
        return new


def _owner(name, site, model):
    """The model's latent that an auxiliary site of the guide is part of; else its own name.

    A `Guide` says so; the sites of Pyro's AutoNormal go by their names.
    """
    if not site["infer"].get("is_auxiliary") and not is_subsample(site):
        raise UserError(f"the guide samples {name!r}, which the model never does")
    owner = site["infer"].get("part_of", name.removesuffix("_unconstrained"))
    return owner if owner in model else name


def _same(a, b):
    """Whether two scales are one, without a look at a tensor's values."""
    return a is b or not (torch.is_tensor(a) or torch.is_tensor(b)) and a == b
