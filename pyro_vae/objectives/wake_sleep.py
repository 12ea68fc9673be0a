"""Reweighted wake-sleep: the guide is fitted to the posterior, not the bound to the guide."""

from collections.abc import Callable
from weakref import WeakSet

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger

from ..errors import UserError
from ..programs.handlers import Substitute
from ..programs.sites import Site, is_subsample, sites_in
from .surrogates import borrowed_parameters, with_fixed
from .weighted import IWAE


class RWS(IWAE):
    r"""Reweighted wake-sleep (Bornschein and Bengio, arXiv 1406.2751; Le et al., arXiv 1805.10469).

    With the normalized weights :math:`\bar w_{sy}` of S draws held fixed,

    .. math:: \nabla_\theta = -\sum_{s,y} \bar w_{sy} \nabla_\theta \log p_\theta(x, z_s, y), \qquad
              \nabla_\phi = -\sum_{s,y} \bar w_{sy} \nabla_\phi \log q_\phi(z_s, y \mid x)

    The model's is the IWAE's. The guide's lowers KL(p(z | x) || q), estimated with a bias that falls
    as 1/S; it needs no reparameterization, so a latent with `discrete="score_function"` is simply sampled.
    Latents summed on either side are summed. The loss that is reported is the IWAE's. Parameters
    of the model that the guide reads and does not own (`PriorGuide`, `SemiAmortized`) have the
    model's gradient alone.

    In the sleep phase the guide is fitted to what the model generates, without bias but for the
    model's own: :math:`-\log q_\phi(z \mid x)` at a draw of z and x from p.

    Args:
        num_particles: samples per data point, S.
        sleep_weight: the sleep phase's weight in the guide's gradient, in [0, 1]; the wake phase has the rest.

    Raises:
        UserError: as `IWAE`; sleep_weight outside of [0, 1]; in the sleep phase, a guide that has nothing to say of
            generated data (a row per data point).

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.VAE((6,), 2, network=pv.conditionals.MLP((8,)))
        >>> guide, objective = pv.guides.Guide(model), pv.objectives.RWS(8, sleep_weight=0.5)
        >>> run = pv.fit(model, guide, torch.ones(4, 6), 1, objective=objective, progress=False)
    """

    name = "rws"

    def __init__(self, num_particles: int = 5, sleep_weight: float = 0.0) -> None:
        super().__init__(num_particles)
        if not 0 <= sleep_weight <= 1:
            raise UserError(f"sleep_weight weighs the sleep phase: 0 to 1, not {sleep_weight}")
        self.sleep_weight = sleep_weight

    def differentiable_loss(
        self, model: Callable, guide: Callable, *args: torch.Tensor, **kwargs: torch.Tensor
    ) -> torch.Tensor:
        """Sum over the minibatch, in nats."""
        with _Fixed():
            traces = self._run(model, guide, args, kwargs)
        fit: torch.Tensor | float = 0.0
        if traces.guide:
            fit = (1 - self.sleep_weight) * self._fit(traces, list(traces.guide.values()))
        if self.sleep_weight:
            sleep_loss = self._sleep_loss(model, guide, args, kwargs)
            fit = fit + self.sleep_weight * (sleep_loss - sleep_loss.detach())
        return self._loss(traces.with_detached_log_probs(traces.sampled)) + with_fixed(
            fit, borrowed_parameters(guide)
        )

    def _sleep_loss(
        self, model: Callable, guide: Callable, args: tuple, kwargs: dict
    ) -> torch.Tensor:
        """`-log q` of the latents that the model generated, at the data that it generated from them."""
        with torch.no_grad():
            simulated = poutine.trace(poutine.uncondition(model)).get_trace(*args, **kwargs)
        sites = sites_in(simulated)
        values = {n: sites[n]["value"] for n in simulated.stochastic_nodes}
        data = {n for n in values if sites[n]["infer"].get("was_observed")}
        seen = {n: values.pop(n) for n in data}
        if len(seen) != 1:
            raise UserError(
                f"the sleep phase generates one observed site, x; the model has {sorted(seen)}"
            )
        ((name, x),) = seen.items()
        given = args[0] if args else kwargs.get("x")
        if given is not None:
            if not _observes(model, sites[name]["infer"]["obs"], given):
                raise UserError(
                    "the sleep phase gives the guide what the model generates, and the model observes "
                    f"a function of x at {name!r}: observe x itself (of a transformed distribution), or "
                    "take sleep_weight=0"
                )
            x = x.reshape(given.shape)
        args = (x, *args[1:]) if args else ()
        kwargs = {**kwargs, "x": x} if "x" in kwargs else kwargs
        kwargs.pop("index", None)  # generated data are none of the training data
        try:
            trace = poutine.trace(Substitute(values)(guide)).get_trace(*args, **kwargs)
            return -torch.as_tensor(trace.log_prob_sum())
        except (UserError, TypeError) as e:
            if isinstance(e, TypeError) and "'index'" not in str(e):
                raise
            raise UserError(f"the sleep phase asks the guide of generated data, but {e}") from e

    def describe(self) -> dict[str, object]:
        return {**super().describe(), "sleep_weight": self.sleep_weight}


#: Models that observe x itself. It is found in a first run: a recording cannot look at values.
_OBSERVE_X: WeakSet[Callable] = WeakSet()


def _observes(model: Callable, observed: torch.Tensor, x: torch.Tensor) -> bool:
    """Whether what a model observes is x."""
    if model not in _OBSERVE_X and _is_x(observed, x):
        _OBSERVE_X.add(model)
    return model in _OBSERVE_X


def _is_x(observed: torch.Tensor, x: torch.Tensor) -> bool:
    """Whether an observed value is x, perhaps reshaped, with any numbers in place of missing ones."""
    if observed.numel() != x.numel():
        return False
    seen, expected = observed.reshape(-1), x.reshape(-1).to(observed.dtype)
    return bool(((seen == expected) | x.reshape(-1).isnan()).all())


class _Fixed(Messenger):
    """Draws are values, off the graph."""

    def _pyro_sample(self, msg: Site) -> None:
        if msg["done"] or msg["is_observed"] or is_subsample(msg):
            return
        msg["value"], msg["done"] = msg["fn"](*msg["args"], **msg["kwargs"]).detach(), True
