"""Annealed importance sampling: log p(x) without trust in a guide, and its own error bar."""

import math
from contextlib import contextmanager

import torch

from ..errors import check_int_at_least
from ..evaluate.inputs import observed, scored
from ..evaluate.likelihood import chunks, rows_per_chunk
from ..guides import PriorGuide
from ..programs.contexts import eval_mode, seeded
from ..programs.modules import device_of
from .joint import Joint
from .simulate import home, simulate

ADAPTATION_CHAINS = 4  # chains that choose the step size, and count for nothing else
ACCEPTANCE = 0.8  # that they aim at, over steps of 0.2 to 1.2 times that size
RATE = 0.3  # of log step size, per unit of acceptance missed
STEEPNESS = 4.0  # of the sigmoid schedule
GRADIENT = 4  # times the memory of a density alone


def ais(model, x, guide=None, num_steps=500, num_chains=16, leapfrog=10, seed=0, **others):
    r"""`[N]` annealed-importance-sampling estimates of log p(x), nats per data point.

    Neal 2001 (arXiv physics/9803008); for decoders Wu et al. 2017 (arXiv 1611.04273). Chains go
    from a start :math:`q_0` to the posterior through
    :math:`f_\beta(z) = q_0(z)^{1-\beta}\, p(x, z)^\beta`, `num_steps` values of :math:`\beta` on a
    sigmoid from 0 to 1, with one Hamiltonian Monte Carlo transition at each between:

    .. math:: \log \hat p(x) = \log \frac1S \sum_s \prod_t
              \left(\frac{p(x, z_{t-1})}{q_0(z_{t-1})}\right)^{\beta_t - \beta_{t-1}}

    :math:`\hat p(x)` is unbiased, so its log is a lower bound in expectation, rising to log p(x) with
    `num_steps` and `num_chains`. To keep it unbiased, the step size of each data point follows, towards
    0.8, the acceptance of four more chains, whose weights are not used.

    Several continuous latents are one vector, constrained ones mapped to the reals; discrete latents
    are summed exactly at every evaluation. Data and chains are one batch; the cost is
    `num_steps * (leapfrog + 1)` runs of the model, of `num_chains + 4` particles a data point.

    Args:
        guide: the start; None is the prior. From a good guide fewer steps do; a guide that misses
            a mode may be believed.
        others: further observed values and `index`, by name, each with N rows.

    Raises:
        UserError: grey values in a Bernoulli; no continuous latent; a guide without a density.
    """
    log_w = annealed_weights(model, x, guide, num_steps, num_chains, leapfrog, seed, **others)
    return _log_mean(log_w).to(observed(model, x, others, guide)["x"].dtype)


def annealed_weights(
    model, x, guide=None, num_steps=500, num_chains=16, leapfrog=10, seed=0, **others
):
    """`[S, N]` log weights of the chains, those of which `ais` is the log-mean-exp; float64."""
    check_int_at_least(1, num_steps=num_steps, num_chains=num_chains, leapfrog=leapfrog)
    batch = scored(model, x, others, guide)
    x = batch["x"]
    anneal = _Annealing(model, guide, num_steps, num_chains, leapfrog)
    parts = []
    with anneal.ready(batch, x.device, seed) as (rows, device):
        for part in chunks(batch, rows, device):
            parts.append(anneal.forward(Joint(model, part, guide))[0])
    return torch.cat(parts, 1).to(x.device)


def bdmc(
    model,
    guide=None,
    num_data=100,
    num_steps=500,
    num_chains=16,
    leapfrog=10,
    seed=0,
    example=None,
    **covariates,
):
    r"""The bidirectional sandwich on simulated data: how far AIS with these settings is off.

    Grosse, Ghahramani and Adams 2015 (arXiv 1511.02543). Of data drawn from the model, the latents
    drawn with them are an exact sample of the posterior. From there chains run the annealing
    backwards, with the transitions of the forward run in reverse order; their weights are unbiased
    for 1 / p(x), so that

    .. math:: E[\mathrm{lower}] \le \log p(x) \le E[\mathrm{upper}]

    and the gap bounds the error of both, of `ais` with the same settings too, as far as real data
    are like the model's own.

    Args:
        num_data: how many to simulate.
        num_steps, num_chains, leapfrog, guide: as in `ais`.
        example: a batch, for a model that does not sample with `size=`.
        covariates: of a conditional model, `num_data` rows each.

    Returns:
        `{"lower", "upper", "gap": [num_data], "x": the data}`.
    """
    check_int_at_least(
        1, num_data=num_data, num_steps=num_steps, num_chains=num_chains, leapfrog=leapfrog
    )
    device = home(model, guide, example)
    with eval_mode(model), seeded(seed, device):
        batch, latents = simulate(model, num_data, device, example, **covariates)
        follow = None if seed is None else int(torch.randint(2**31, ()))
    scored(model, batch["x"], {k: v for k, v in batch.items() if k != "x"})
    anneal = _Annealing(model, guide, num_steps, num_chains, leapfrog)
    names, lower, upper = set(latents), [], []
    with anneal.ready(batch, device, follow) as (rows, device):
        for part in chunks({**batch, **latents}, rows, device):
            truth = {name: part.pop(name) for name in names}
            joint = Joint(model, part, guide)
            forward, plan = anneal.forward(joint)
            exact = joint.unconstrained({n: truth[n].unsqueeze(0) for n in joint.shapes})
            lower.append(_log_mean(forward))
            upper.append(-_log_mean(-anneal.backward(joint, exact, plan)))
    lower, upper = (torch.cat(v).to(batch["x"].device) for v in (lower, upper))
    return {"lower": lower, "upper": upper, "gap": upper - lower, "x": batch["x"]}


class _Annealing:
    """The annealing of S chains for B data, either way."""

    def __init__(self, model, guide, num_steps, num_chains, leapfrog):
        self.model, self.guide = model, guide
        self.chains, self.leapfrog = num_chains, leapfrog
        t = torch.linspace(-STEEPNESS, STEEPNESS, num_steps + 1, dtype=torch.float64).sigmoid()
        self.betas = ((t - t[0]) / (t[-1] - t[0])).tolist()

    @contextmanager
    def ready(self, batch, default, seed):
        """`(rows a chunk, device)`, in eval mode, with a random stream of its own."""
        device = device_of(self.model, self.guide, default=default)
        with eval_mode(self.model, self.guide), seeded(seed, device):
            start = PriorGuide(self.model) if self.guide is None else self.guide
            rows = rows_per_chunk(self.model, start, batch, device) // GRADIENT
            yield max(1, rows // (self.chains + ADAPTATION_CHAINS)), device

    def forward(self, joint):
        """`(log weights [S, B], plan)`: from the start to the posterior."""
        chains = self.chains + ADAPTATION_CHAINS
        scale = joint.draw(max(chains, 16)).std(0).clamp_min(1e-6)  # lengths in the start's own
        u = joint.draw(chains)
        ends = _ends(joint, u)
        log_step = u.new_full(u.shape[1:2], math.log(0.5))
        log_w, steps = ends[0].new_zeros(ends[0].shape, dtype=torch.float64), []
        for before, beta in zip(self.betas, self.betas[1:], strict=False):
            log_w = log_w + (beta - before) * (ends[1] - ends[0])
            if beta < 1:
                steps.append(log_step)
                size = log_step.exp().unsqueeze(-1) * scale
                u, ends, accept = self._transition(joint, u, ends, beta, size)
                log_step = log_step + RATE * (accept[self.chains :].mean(0) - ACCEPTANCE)
        return log_w[: self.chains], (scale, steps)

    def backward(self, joint, u, plan):
        """`[S, B]` log weights of the reverse chains, from exact posterior draws u `[1, B, D]`."""
        scale, steps = plan
        u = u.expand(self.chains, -1, -1)
        ends = _ends(joint, u)
        log_w = ends[0].new_zeros(ends[0].shape, dtype=torch.float64)
        for t in range(len(self.betas) - 1, 0, -1):
            log_w = log_w + (self.betas[t] - self.betas[t - 1]) * (ends[1] - ends[0])
            if t > 1:
                size = steps[t - 2].exp().unsqueeze(-1) * scale
                u, ends, _ = self._transition(joint, u, ends, self.betas[t - 1], size)
        return log_w

    def _transition(self, joint, u, ends, beta, size):
        """One HMC transition of stationary density f_beta: `(u, ends, acceptance [S, B])`.

        Drift, kick, ..., drift: a gradient for each of the leapfrog steps, a density at the end.
        """
        # chains differ in step: none is long stuck in a stiff tail, no trajectory closes on itself
        size = size * (0.2 + torch.rand_like(u[..., :1]))
        momentum = torch.randn_like(u)
        energy = _mixed(ends, beta) - 0.5 * (momentum**2).sum(-1)
        v, p = u + 0.5 * size * momentum, momentum
        for i in range(self.leapfrog):
            p = p + size * _gradient(joint, v, beta)
            v = v + (size if i < self.leapfrog - 1 else 0.5 * size) * p
        new = _ends(joint, v)
        gain = _mixed(new, beta) - 0.5 * (p**2).sum(-1) - energy
        accept = torch.nan_to_num(gain.exp(), nan=0.0, posinf=1.0).clamp(max=1.0)
        taken = torch.rand_like(accept) < accept
        u = torch.where(taken.unsqueeze(-1), v, u)
        ends = tuple(torch.where(taken, b, a) for a, b in zip(ends, new, strict=True))
        return u, ends, accept


def _mixed(ends, beta):
    start, joint = ends
    return (1 - beta) * start + beta * joint


def _ends(joint, u):
    """`(log start, log p(x, u))` at u, without a graph."""
    with torch.no_grad():
        return joint.log_densities(u)


def _gradient(joint, u, beta):
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(_mixed(joint.log_densities(u), beta).sum(), u)
    return gradient


def _log_mean(log_w):
    return log_w.logsumexp(0) - math.log(len(log_w))
