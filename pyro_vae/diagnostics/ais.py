"""Annealed importance sampling: bounds on log p(x) that do not rely on a guide."""

import math
from collections.abc import Sequence

import torch

from ..errors import check_int_at_least
from ..evaluate.chunked import evaluate_in_chunks, evaluation_mode
from ..evaluate.inputs import Array, Batch, PyroProgram, pair_inputs, scored_inputs
from ..programs.inspection import Example, as_example
from ..programs.modules import pair_device
from ..programs.recorder import replayed
from .joint import Joint
from .simulate import simulate

ADAPTATION_CHAINS = 4  # additional chains that adapt the step size; their weights are not used
TARGET_ACCEPTANCE = 0.8  # of the adaptation chains, whose steps are 0.2 to 1.2 times the step size
ADAPTATION_RATE = 0.3  # change of the log step size per unit of missed acceptance
STEEPNESS = 4.0  # of the sigmoid schedule
GRADIENT_MEMORY = 4  # memory of a gradient relative to that of a density

Plan = tuple[torch.Tensor, list[torch.Tensor]]  # scale [B, D], log step size [B] of each transition
LogDensities = tuple[torch.Tensor, torch.Tensor]  # log start, log p(x, u), `[S, B]` each


def ais(
    model: PyroProgram,
    x: Array,
    guide: PyroProgram | None = None,
    num_steps: int = 500,
    num_chains: int = 16,
    leapfrog: int = 10,
    seed: int | None = 0,
    **others: Array | None,
) -> torch.Tensor:
    r"""Annealed-importance-sampling estimates of log p(x).

    Chains go from a start :math:`q_0` to the posterior through
    :math:`f_\beta(z) = q_0(z)^{1-\beta}\, p(x, z)^\beta`. The values of :math:`\beta` follow a
    sigmoid from 0 to 1; between two of them is one Hamiltonian Monte Carlo transition:

    .. math:: \log \hat p(x) = \log \frac1S \sum_s \prod_t
              \left(\frac{p(x, z_{t-1})}{q_0(z_{t-1})}\right)^{\beta_t - \beta_{t-1}}

    :math:`\hat p(x)` is unbiased. Its log therefore is a lower bound in expectation, which rises to
    log p(x) with `num_steps` and `num_chains`. To keep it unbiased, the step size of each data
    point is adapted on four additional chains, towards an acceptance of 0.8.

    Several continuous latents form one vector; constrained ones are mapped to the reals. Discrete
    latents are summed exactly at every evaluation. Data and chains are one batch. The cost is
    `num_steps * (leapfrog + 1)` runs of the model with `num_chains + 4` particles per data point.

    Args:
        model: the generative program.
        x: `[N, ...]`, as observed, in the units in which the model was trained.
        guide: the start. Default: the prior. A good guide needs fewer steps. A guide that misses a
            mode can make the estimate too low.
        num_steps: values of :math:`\beta` after 0.
        num_chains: S, chains per data point.
        leapfrog: leapfrog steps per transition.
        seed: of the chains. None uses torch's random stream.
        others: further inputs by name (`c=`, `y=`, `index=`), each with N rows.

    Returns:
        `[N]`, nats per data point, on the device of x.

    Raises:
        UserError: gray values in a Bernoulli; no continuous latent; a guide without a density.

    References:
        Neal 2001, arXiv physics/9803008; for decoders, Wu et al. 2017, arXiv 1611.04273.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.VAE((6,), latent_dim=2)
        >>> pv.diagnostics.ais(model, torch.ones(4, 6), num_steps=5, num_chains=2).shape
        torch.Size([4])
    """
    log_w = annealed_weights(model, x, guide, num_steps, num_chains, leapfrog, seed, **others)
    return _log_mean(log_w).to(pair_inputs(model, x, others, guide)["x"].dtype)


def annealed_weights(
    model: PyroProgram,
    x: Array,
    guide: PyroProgram | None = None,
    num_steps: int = 500,
    num_chains: int = 16,
    leapfrog: int = 10,
    seed: int | None = 0,
    **others: Array | None,
) -> torch.Tensor:
    """The log weights `[S, N]` of the chains, float64; `ais` is their log-mean-exp."""
    check_int_at_least(1, num_steps=num_steps, num_chains=num_chains, leapfrog=leapfrog)
    batch = scored_inputs(model, x, others, guide)
    annealing = _Annealing(num_steps, num_chains, leapfrog)

    def weights(chunk: Batch, _: int) -> Batch:
        return {"log_w": annealing.forward(Joint(model, chunk, guide))[0]}

    return evaluate_in_chunks(
        weights, model, guide, batch, seed=seed, num_particles=annealing.memory, dim=1
    )["log_w"]


def bdmc(
    model: PyroProgram,
    guide: PyroProgram | None = None,
    num_data: int = 100,
    num_steps: int = 500,
    num_chains: int = 16,
    leapfrog: int = 10,
    seed: int | None = 0,
    example: Example | None = None,
    **covariates: torch.Tensor,
) -> dict[str, torch.Tensor]:
    r"""Bidirectional Monte Carlo: lower and upper bounds on log p(x) of simulated data.

    The latents that were drawn with simulated data are an exact sample of their posterior. From
    there, chains run the annealing backwards, with the transitions of the forward run in reverse
    order. Their weights are unbiased for 1 / p(x), so that

    .. math:: E[\mathrm{lower}] \le \log p(x) \le E[\mathrm{upper}]

    The gap bounds the error of both. It is a guide to the error of `ais` with the same settings,
    if real data are like those of the model.

    Args:
        model: the generative program.
        guide: the start, as in `ais`.
        num_data: N, the number of data points to simulate.
        num_steps: as in `ais`.
        num_chains: as in `ais`.
        leapfrog: as in `ais`.
        seed: of the data and the chains. None uses torch's random stream.
        example: x, or a batch `{"x": x, ...}`, for a model that does not sample with `size=`.
        covariates: of a conditional model, N rows each.

    Returns:
        `{"lower", "upper", "gap": [N], "x": [N, ...]}`, nats per data point, and the data.

    Raises:
        UserError: no way to simulate; no continuous latent; a guide without a density.

    References:
        Grosse, Ghahramani, Adams 2015, arXiv 1511.02543.

    Example:
        >>> import torch, pyro_vae as pv
        >>> model = pv.models.VAE((6,), latent_dim=2)
        >>> bounds = pv.diagnostics.bdmc(model, num_data=4, num_steps=5, num_chains=2)
        >>> {name: list(value.shape) for name, value in bounds.items()}
        {'lower': [4], 'upper': [4], 'gap': [4], 'x': [4, 6]}
    """
    check_int_at_least(
        1, num_data=num_data, num_steps=num_steps, num_chains=num_chains, leapfrog=leapfrog
    )
    example = as_example(model, example)
    device = pair_device(model, guide, batch=example)
    with evaluation_mode(model, seed=seed, device=device):
        batch, latents = simulate(model, num_data, device, example, **covariates)
        chain_seed = None if seed is None else int(torch.randint(2**31, ()))
    scored_inputs(model, batch["x"], {k: v for k, v in batch.items() if k != "x"})
    annealing = _Annealing(num_steps, num_chains, leapfrog)

    def bounds(chunk: Batch, _: int) -> Batch:
        exact = {name: chunk.pop(name).unsqueeze(0) for name in latents}
        joint = Joint(model, chunk, guide)
        forward, plan = annealing.forward(joint)
        u = joint.unconstrained({name: exact[name] for name in joint.shapes})
        backward = annealing.backward(joint, u, plan)
        return {"lower": _log_mean(forward), "upper": -_log_mean(-backward)}

    result = evaluate_in_chunks(
        bounds,
        model,
        guide,
        batch,
        seed=chain_seed,
        num_particles=annealing.memory,
        rows={**batch, **latents},
    )
    return {**result, "gap": result["upper"] - result["lower"], "x": batch["x"]}


class _Annealing:
    """The annealing of S chains for each of B data points, forward or backward."""

    def __init__(self, num_steps: int, num_chains: int, leapfrog: int) -> None:
        self.num_chains, self.leapfrog = num_chains, leapfrog
        t = torch.linspace(-STEEPNESS, STEEPNESS, num_steps + 1, dtype=torch.float64).sigmoid()
        self.betas = ((t - t[0]) / (t[-1] - t[0])).tolist()

    @property
    def memory(self) -> int:
        """The memory per data point, in that of one density of one particle."""
        return GRADIENT_MEMORY * (self.num_chains + ADAPTATION_CHAINS)

    def forward(self, joint: Joint) -> tuple[torch.Tensor, Plan]:
        """`(log weights [S, B], plan)` from the start to the posterior."""
        num_chains = self.num_chains + ADAPTATION_CHAINS
        scale = joint.draw(max(num_chains, 16)).std(0).clamp_min(1e-6)  # of the start, per number
        u = joint.draw(num_chains)
        at = self._densities(joint, u)
        densities = at(u)
        log_step = u.new_full(u.shape[1:2], math.log(0.5))
        log_w = densities[0].new_zeros(densities[0].shape, dtype=torch.float64)
        steps = []
        for previous, beta in zip(self.betas, self.betas[1:], strict=False):
            log_w = log_w + (beta - previous) * (densities[1] - densities[0])
            if beta < 1:
                steps.append(log_step)
                size = log_step.exp().unsqueeze(-1) * scale
                u, densities, acceptance = self._transition(at, u, densities, beta, size)
                missed = acceptance[self.num_chains :].mean(0) - TARGET_ACCEPTANCE
                log_step = log_step + ADAPTATION_RATE * missed
        return log_w[: self.num_chains], (scale, steps)

    def backward(self, joint: Joint, u: torch.Tensor, plan: Plan) -> torch.Tensor:
        """`[S, B]` log weights of the reverse chains, from exact posterior draws u `[1, B, D]`."""
        scale, steps = plan
        u = u.expand(self.num_chains, -1, -1).contiguous()
        at = self._densities(joint, u)
        densities = at(u)
        log_w = densities[0].new_zeros(densities[0].shape, dtype=torch.float64)
        for t in range(len(self.betas) - 1, 0, -1):
            log_w = log_w + (self.betas[t] - self.betas[t - 1]) * (densities[1] - densities[0])
            if t > 1:
                size = steps[t - 2].exp().unsqueeze(-1) * scale
                u, densities, _ = self._transition(at, u, densities, self.betas[t - 1], size)
        return log_w

    def _densities(self, joint: Joint, u: torch.Tensor) -> "_Densities":
        return _Densities(joint, u, self.leapfrog * (len(self.betas) - 1))

    def _transition(
        self,
        at: "_Densities",
        u: torch.Tensor,
        densities: LogDensities,
        beta: float,
        size: torch.Tensor,
    ) -> tuple[torch.Tensor, LogDensities, torch.Tensor]:
        """One HMC transition with stationary density f_beta: `(u, densities, acceptance [S, B])`.

        Half a step of position, then momentum and position in turn, half a step of position: one
        gradient per leapfrog step, and one density at the end.
        """
        # Step sizes differ between chains: none is stuck in a stiff tail for long, and no
        # trajectory closes on itself.
        size = size * (0.2 + torch.rand_like(u[..., :1]))
        momentum = torch.randn_like(u)
        energy = _annealed(densities, beta) - 0.5 * (momentum**2).sum(-1)
        v, p = u + 0.5 * size * momentum, momentum
        for i in range(self.leapfrog):
            p = p + size * at.gradient(v, beta)
            v = v + (size if i < self.leapfrog - 1 else 0.5 * size) * p
        proposed = at(v)
        gain = _annealed(proposed, beta) - 0.5 * (p**2).sum(-1) - energy
        acceptance = torch.nan_to_num(gain.exp(), nan=0.0, posinf=1.0).clamp(max=1.0)
        accepted = torch.rand_like(acceptance) < acceptance
        u = torch.where(accepted.unsqueeze(-1), v, u)
        start, log_p = (
            torch.where(accepted, new, old) for old, new in zip(densities, proposed, strict=True)
        )
        return u, (start, log_p), acceptance


def _annealed(densities: LogDensities, beta: float | torch.Tensor) -> torch.Tensor:
    """log f_beta."""
    start, log_p = densities
    return (1 - beta) * start + beta * log_p


class _Densities:
    """The log-densities of a joint at `[S, B, D]` values, and the gradient of log f_beta.

    Args:
        joint: whose densities these are.
        u: values that it is called with, `[S, B, D]`.
        calls: how many gradients will be taken: many are replayed (see `programs.recorder`).
    """

    def __init__(self, joint: Joint, u: torch.Tensor, calls: int) -> None:
        self.joint, self.beta = joint, u.new_zeros((), dtype=torch.float64)
        self._log_densities, self._gradient = self._plain_log_densities, self._plain_gradient
        v, one = 0.9 * u.flip(0), torch.ones_like(self.beta)
        examples = [u, 0.3 * one], [v, 0.8 * one]
        self._gradient = replayed(self._gradient, *examples, device=u.device, calls=calls)
        is_replayed = self._gradient != self._plain_gradient
        if is_replayed:  # then so are the densities, one for each step
            self._log_densities = replayed(self._log_densities, [u], [v], device=u.device)

    def __call__(self, u: torch.Tensor) -> LogDensities:
        """`(log start, log p(x, u))`, `[S, B]` each."""
        start, log_p = self._log_densities(u)
        return start, log_p

    def gradient(self, u: torch.Tensor, beta: float) -> torch.Tensor:
        """The gradient of log f_beta, `[S, B, D]`."""
        return self._gradient(u, self.beta.fill_(beta))[0]

    def _plain_log_densities(self, u: torch.Tensor) -> Sequence[torch.Tensor]:
        with torch.no_grad():
            return self.joint.log_densities(u)

    def _plain_gradient(self, u: torch.Tensor, beta: torch.Tensor) -> Sequence[torch.Tensor]:
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            # 0-dim float64: it takes part in arithmetic exactly as a Python float does
            return torch.autograd.grad(_annealed(self.joint.log_densities(u), beta).sum(), u)


def _log_mean(log_w: torch.Tensor) -> torch.Tensor:
    return log_w.logsumexp(0) - math.log(len(log_w))
