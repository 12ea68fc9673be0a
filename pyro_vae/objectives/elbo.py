"""The evidence lower bound, with KL warm-up and the minimum information constraint."""

from collections.abc import Callable

import torch
from pyro.infer import TraceEnum_ELBO

from ..errors import UserError, check_int_at_least
from ..programs import layout_of, trace_pair
from ..programs.calling import as_batch
from ..programs.traces import Traces
from .schedule import ScheduledObjective, check_non_negative
from .surrogates import mean_of_others, score_function


class ELBO(TraceEnum_ELBO, ScheduledObjective):
    r"""The negative ELBO. Discrete latents are enumerated (marginalized) in the model or the guide.

    With the defaults it is Pyro's `TraceEnum_ELBO(max_plate_nesting=1)`. A latent that the guide leaves
    out is summed, also where no `config_enumerate` asks for it. One that the model alone masks has no log q
    where its value has no effect. In general it is

    .. math:: -L = -E_q[\log p(x \mid \cdot)] + \sum_l \beta_l \max(\lambda_l,\; \mathrm{KL}_l)

    :math:`\mathrm{KL}_l` is the term of latent l, averaged over the minibatch:
    :math:`E[\log q - \log p]`. For a latent that is enumerated in the model, it is the KL from its
    exact posterior to its prior. A site that the guide observes has no term.

    Two paths compute the loss: at the default settings Pyro's own code, so that a pair has the loss
    that it has under Pyro to the last bit, and at any other settings `Traces`, because Pyro's code has
    no terms per latent. A test holds that both are equal.

    All settings concern training; `evaluate` is always at :math:`\beta = 1`. The scale of a site (of a
    subsampled plate, of `poutine.scale`) multiplies its finished term once. The KL is compared with
    :math:`\lambda_l` before that. Probabilities of enumerated values are not scaled.

    Args:
        beta: the weight :math:`\beta_l`: one number, or `{latent: number}` (1 for the others).
        warmup: epochs in which the weight rises linearly from `warmup_start` to `beta`: one number, or
            `{latent: epochs}`.
        warmup_start: the weight at the start. Above `beta`, a latent comes into use after the others.
        free_bits: `{latent: nats}` per data point, :math:`\lambda_l`: less of its KL costs nothing.
            On the y of the `GMVAE` it is the paper's minimum information constraint: below it the
            prior does not pull the clusters together.
        num_particles: Monte Carlo samples per data point, vectorized.
        leave_one_out_baseline: whether the score function of a latent without reparameterization
            (`Guide(..., discrete="score_function")`) has as its baseline the mean cost of the data
            point's other particles (RLOO); with one particle, of the other data in the batch. The
            baseline adds no bias.
        analytic_kl: whether a KL is computed in closed form instead of from a sample. This needs a
            closed form in torch, and a prior that depends on no latent that is enumerated in the model
            or sampled later in the guide. The variance is mostly smaller; near the posterior the
            sample's is (Roeder et al. 2017).

    Raises:
        UserError: a setting that is out of range.

    References:
        Kingma and Welling 2014, arXiv 1312.6114. Warm-up: Bowman et al. 2016; Sonderby et al. 2016,
        arXiv 1602.02282. Free bits: Kingma et al. 2016, arXiv 1606.04934; Dilokthanakul et al. 2016,
        arXiv 1611.02648. RLOO: Kool et al. 2019. Closed forms: Roeder et al. 2017, arXiv 1703.09194.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.VAE((5,), latent_dim=2)
        >>> guide = pv.guides.Guide(model)
        >>> objective = pv.objectives.ELBO(beta=4.0, warmup=10)
        >>> objective.epoch = 5
        >>> objective.current_beta("z")
        2.0
        >>> x = torch.ones(8, 5)
        >>> objective.differentiable_loss(model, guide, x).shape  # nats, summed over the 8 data points
        torch.Size([])
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
    ) -> None:
        check_int_at_least(1, num_particles=num_particles)
        super().__init__(
            num_particles=num_particles,
            max_plate_nesting=1,
            vectorize_particles=num_particles > 1,
            strict_enumeration_warning=False,
        )
        self.set_schedule(beta, warmup, warmup_start)
        if not isinstance(free_bits, dict | None):
            raise UserError(
                f"free_bits must be {{latent: nats}}, e.g. {{'z': 0.5}}, not {free_bits!r}"
            )
        self.free_bits = dict(free_bits or {})
        check_non_negative(free_bits=self.free_bits)
        self.leave_one_out_baseline, self.analytic_kl = leave_one_out_baseline, analytic_kl

    def differentiable_loss(
        self, model: Callable, guide: Callable, *args: torch.Tensor, **kwargs: torch.Tensor
    ) -> torch.Tensor:
        """The loss, in nats, summed over the minibatch.

        Raises:
            UserError: a setting for a latent that the model does not have, or a site outside of the
                data plate.
        """
        if self._is_plain() and self._suits_pyro(model, guide, args, kwargs):
            return super().differentiable_loss(model, guide, *args, **kwargs)
        return self._loss(self._run(model, guide, args, kwargs))

    def loss(
        self, model: Callable, guide: Callable, *args: torch.Tensor, **kwargs: torch.Tensor
    ) -> float:
        """The loss as a number, without gradients; as `pyro.infer.SVI` calls it."""
        with torch.no_grad():
            if self._is_plain() and self._suits_pyro(model, guide, args, kwargs):
                return super().loss(model, guide, *args, **kwargs)
            return ELBO.differentiable_loss(self, model, guide, *args, **kwargs).item()

    def loss_and_grads(
        self, model: Callable, guide: Callable, *args: torch.Tensor, **kwargs: torch.Tensor
    ) -> float:
        """The loss as a number, its gradients added to `.grad`; as `pyro.infer.SVI` calls it."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        loss.backward()
        return loss.item()

    def _is_plain(self) -> bool:
        """Whether all settings are those of Pyro's ELBO."""
        if self.free_bits or self._tensors or self.leave_one_out_baseline or self.analytic_kl:
            return False
        return all(self.current_beta(latent) == 1 for latent in self.latents_with_settings())

    def _suits_pyro(self, model: Callable, guide: Callable, args: tuple, kwargs: dict) -> bool:
        """Whether Pyro's ELBO is right for the pair.

        It needs particles in a plate, no data in the guide, no latent of the model alone that takes
        its values in turn or that the program does not enumerate, masks of latents in both programs,
        and, beside enumerated latents, one scale for all rows. The rows have one plate: Pyro takes
        plates of other names to be independent, and multiplies what is in one of them by the rows of
        the other.
        """
        batch = as_batch(model, args, kwargs)
        if not torch.is_tensor(batch.get("x")):
            return True
        layout = layout_of(model, guide, batch)
        if layout.masks_differ or (layout.scales_rows and layout.discrete_sites):
            return False
        if len(layout.plates) > 1:
            return False
        if any(s.configured != "parallel" and not s.in_guide for s in layout.discrete_sites):
            return False
        return not layout.observes and (self.num_particles == 1 or layout.particles == "plate")

    def _run(self, model: Callable, guide: Callable, args: tuple, kwargs: dict) -> Traces:
        """The runs of the pair from which the loss is computed, as one."""
        batch = as_batch(model, args, kwargs)
        num_particles = self.num_particles if self.num_particles > 1 else None
        return trace_pair(model, guide, batch, num_particles, as_configured=True)

    def _loss(self, traces: Traces) -> torch.Tensor:
        for name, site in traces.guide_factors.items():
            if not site["fn"].has_rsample:
                raise UserError(
                    f"the guide's pyro.factor {name!r} has has_rsample=False, which only the plain ELBO() "
                    "takes: has_rsample=True, if it does not depend on a draw that has no gradient"
                )
        cost = weighted_cost(self, traces)
        cost = cost.expand(self.num_particles, cost.shape[-1])
        signal = cost.detach()
        if self.leave_one_out_baseline:
            signal = signal - mean_of_others(signal)
        surrogate = score_function(traces, signal)
        return (cost.sum() + surrogate) / self.num_particles - traces.outside_term()

    def describe(self) -> dict[str, object]:
        """The settings, for `config.json`."""
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


def weighted_cost(elbo: ELBO, traces: Traces) -> torch.Tensor:
    """`[(S,) B]`: the negative bound of each particle and data point, its KLs weighted and bounded."""
    terms = traces.site_terms(elbo.analytic_kl, scaled=True)
    latents = {n for n, s in traces.model.items() if not s["is_observed"]}
    _check_settings(elbo, terms, latents, traces)
    cost: torch.Tensor | float = 0.0
    for name, term in terms.items():
        if name not in latents:
            cost = cost - term
            continue
        kl = -term
        if name in elbo.free_bits:
            # below the level the KL's gradient is zero, and its value is the level
            parts = {name, *(n for n, owner in traces.auxiliary.items() if owner == name)}
            scale = traces.common_scale(parts, f"free_bits of {name!r}")
            level = elbo.free_bits[name]
            kl = torch.where((kl / scale).mean() > level, kl, level * scale)
        cost = cost + elbo.current_beta(name) * kl
    return torch.as_tensor(cost)


def _check_settings(elbo: ELBO, terms: dict, latents: set[str], traces: Traces) -> None:
    """Raise where a setting names no latent, or a term belongs to several."""
    for name in set(terms) - set(traces.scored) - set(traces.guide_factors):
        raise UserError(
            f"the guide's auxiliary {name!r} belongs to no one latent, whose KL beta, warmup or "
            "free_bits could weigh"
        )
    for setting in (elbo.beta, elbo.warmup, elbo.free_bits):
        for name in setting if isinstance(setting, dict) else ():
            if name not in latents:
                raise UserError(f"no latent {name!r} in the model; it has {sorted(latents)}")
