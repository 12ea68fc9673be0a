"""The evidence lower bound, with KL warm-up and the minimum information constraint."""

from contextlib import contextmanager

import torch
from pyro.infer import TraceEnum_ELBO

from ..errors import UserError, check_int_at_least
from ..programs import layout_of, trace_pair
from ..programs.calling import as_batch
from .objective import Objective
from .surrogates import mean_of_others, score_function


class ELBO(TraceEnum_ELBO, Objective):
    r"""Negative ELBO, discrete latents summed exactly on whichever side enumerates them.

    With the defaults it is Pyro's `TraceEnum_ELBO(max_plate_nesting=1)`. Otherwise

    .. math:: -L = -E_q[\log p(x \mid \cdot)] + \sum_l \beta_l \max(\lambda_l,\; \mathrm{KL}_l)

    where KL_l is latent l's term, averaged over the minibatch: :math:`E[\log q - \log p]`, and for
    a latent y summed in the model, the KL of its exact posterior to its prior.

    * `warmup`: :math:`\beta_l` rises linearly from `warmup_start` to `beta` over that many epochs
      (Bowman et al. 2016; Sonderby et al. 2016, arXiv 1602.02282).
    * `free_bits`: :math:`\lambda_l` in nats per data point (Kingma et al. 2016, arXiv 1606.04934). On
      the GMVAE's y it is that paper's minimum information constraint (arXiv 1611.02648): below
      :math:`\lambda` the prior no longer pulls the clusters together.

    * `analytic_kl`: KL_l in closed form instead of a sample of it, where torch has the form for the
      two distributions and the prior depends on no latent that the model sums, or that the guide samples
      later; the same expectation, mostly of less variance (Kingma and Welling 2014, arXiv 1312.6114, section 2.3; but see Roeder et al. 2017,
      arXiv 1703.09194: near the posterior the sample has less).

    All are properties of training: `evaluate` never sees them. A site that the guide observes is no
    draw from q, and no part of the bound.

    A scale (of a subsampled plate, of `poutine.scale`) multiplies a finished term, once. KL_l is
    compared with :math:`\lambda_l` before that. Probabilities of summed latents are never scaled.

    Args:
        beta: one number, or `{latent: number}` (1 for the others).
        warmup: epochs, or `{latent: epochs}`.
        warmup_start: where warm-up starts; above `beta`, a latent comes into use after the others.
        free_bits: `{latent: nats}`.
        num_particles: Monte Carlo samples per data point, vectorized.
        leave_one_out_baseline: of a latent that is sampled without reparameterization (`Guide(...,
            discrete="score_function")`), the score function's baseline is the mean cost of the data point's other
            particles (RLOO; Kool et al. 2019), with one particle that of the batch's other data.
            It adds no bias.
        analytic_kl: see above.
    """

    def __init__(
        self,
        beta: float | dict[str, float] = 1.0,
        warmup: int | dict[str, int] = 0,
        warmup_start: float = 0.0,
        free_bits: dict[str, float] | None = None,
        num_particles: int = 1,
        leave_one_out_baseline: bool = False,
        analytic_kl: bool = False,
    ):
        check_int_at_least(1, num_particles=num_particles)
        super().__init__(
            num_particles=num_particles,
            max_plate_nesting=1,
            vectorize_particles=num_particles > 1,
            strict_enumeration_warning=False,
        )
        self.beta, self.warmup, self.warmup_start = beta, warmup, warmup_start
        self.free_bits, self.analytic_kl = dict(free_bits or {}), analytic_kl
        self.leave_one_out_baseline = leave_one_out_baseline
        self.epoch = float("inf")  # `fit` sets it; outside of training, warm-up is over
        self._held = {}  # while being recorded: tensors in place of `schedule_values()`
        for name in ("beta", "warmup", "warmup_start", "free_bits"):
            value = getattr(self, name)
            values = value.values() if isinstance(value, dict) else [value]
            if any(not (v >= 0) for v in values):
                raise UserError(f"{name} must not be negative: {value}")

    def current_beta(self, latent):
        """The weight of one latent's KL at the current epoch."""
        if self._held:
            return self._held[latent if latent in self._held else None]
        beta = self.beta.get(latent, 1.0) if isinstance(self.beta, dict) else self.beta
        warmup = self.warmup.get(latent, 0) if isinstance(self.warmup, dict) else self.warmup
        if self.epoch >= warmup:
            return beta
        return self.warmup_start + (beta - self.warmup_start) * self.epoch / warmup

    def _named(self):
        """The latents with settings of their own, and None for all others."""
        settings = [s for s in (self.beta, self.warmup) if isinstance(s, dict)]
        return {None}.union(*settings)

    def _is_plain(self):
        settings = self.free_bits, self._held, self.leave_one_out_baseline, self.analytic_kl
        return not any(settings) and all(self.current_beta(latent) == 1 for latent in self._named())

    def schedule_values(self):
        """The numbers that change while training, by latent; None for those not named."""
        if not any(self.warmup.values() if isinstance(self.warmup, dict) else [self.warmup]):
            return {}
        return {
            latent: float(self.current_beta(latent)) for latent in sorted(self._named(), key=str)
        }

    @contextmanager
    def with_schedule_values(self, tensors):
        """Within, the loss is a function of `tensors` in place of `schedule_values()`."""
        self._held = tensors
        try:
            yield
        finally:
            self._held = {}

    def differentiable_loss(self, model, guide, *args, **kwargs):
        """Sum over the minibatch, in nats.

        Raises:
            UserError: a named latent that the model does not have, or a site outside of the plate.
        """
        if self._is_plain() and self._is_pyros(model, guide, args, kwargs):
            return super().differentiable_loss(model, guide, *args, **kwargs)
        return self._loss(self._run(model, guide, args, kwargs))

    def _is_pyros(self, model, guide, args, kwargs):
        """Whether Pyro's own ELBO is right for the pair: particles in a plate, no data in the guide."""
        batch = as_batch(model, args, kwargs)
        if not torch.is_tensor(batch.get("x")):
            return True
        layout = layout_of(model, guide, batch)
        return not layout.observes and (self.num_particles == 1 or layout.particles == "plate")

    def _run(self, model, guide, args, kwargs):
        """The runs of the pair that a loss is taken from, as one."""
        batch = as_batch(model, args, kwargs)
        num_particles = self.num_particles if self.num_particles > 1 else None
        return trace_pair(model, guide, batch, num_particles, as_configured=True)

    def _loss(self, traces):
        cost = self._cost(traces)
        cost = cost.expand(self.num_particles, cost.shape[-1])
        signal = cost.detach()
        if self.leave_one_out_baseline:
            signal = signal - mean_of_others(signal)
        surrogate = score_function(traces, signal)
        return (cost.sum() + surrogate) / self.num_particles - traces.factor_term()

    def _cost(self, traces):
        """`[(S,) B]`: the negative bound of each particle and data point, weighted and constrained."""
        terms = traces.site_terms(self.analytic_kl, scaled=True)
        latents = {n for n, s in traces.model.items() if not s["is_observed"]}
        for name in set(terms) - set(traces.model):
            raise UserError(
                f"the guide's auxiliary {name!r} belongs to no one latent, whose KL beta, warmup or "
                "free_bits could weigh"
            )
        for setting in (self.beta, self.warmup, self.free_bits):
            for name in setting if isinstance(setting, dict) else ():
                if name not in latents:
                    raise UserError(f"no latent {name!r} in the model; it has {sorted(latents)}")
        cost = 0.0
        for name, term in terms.items():
            if name not in latents:
                cost = cost - term
                continue
            kl = -term
            if name in self.free_bits:
                # at the constraint the KL's gradient is zero, its value the constraint's
                parts = {name, *(n for n, owner in traces.auxiliary.items() if owner == name)}
                scale = traces.common_scale(parts, f"free_bits of {name!r}")
                level = self.free_bits[name]
                kl = torch.where((kl / scale).mean() > level, kl, level * scale)
            cost = cost + self.current_beta(name) * kl
        return cost

    def loss_and_grads(self, model, guide, *args, **kwargs):
        """As `pyro.infer.SVI` calls it: the loss as a float, gradients in `.grad`."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        loss.backward()
        return loss.item()

    def loss(self, model, guide, *args, **kwargs):
        with torch.no_grad():
            if self._is_plain() and self._is_pyros(model, guide, args, kwargs):
                return super().loss(model, guide, *args, **kwargs)
            return ELBO.differentiable_loss(self, model, guide, *args, **kwargs).item()

    def describe(self):
        """Its settings, for `config.json`."""
        return {
            "name": "elbo",
            "beta": self.beta,
            "warmup": self.warmup,
            "warmup_start": self.warmup_start,
            "free_bits": self.free_bits,
            "num_particles": self.num_particles,
            **({"leave_one_out_baseline": True} if self.leave_one_out_baseline else {}),
            "analytic_kl": self.analytic_kl,
        }
