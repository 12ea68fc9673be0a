"""What the tests of objectives share: gradients of many draws, and their mean by quadrature."""

from contextlib import contextmanager

import numpy as np
import pyro
import pyro.distributions as dist
import torch
import torch.nn as nn

import pyro_vae as pv
from pyro_vae.conditionals import MLP, NormalLikelihood
from pyro_vae.programs.calling import as_keyword_program

DATA, NODES = 2, 40  # columns of x; nodes of the quadrature along each draw
SMALL = MLP(hidden=(4,), activation="tanh")
GUIDES = {
    "vae": None,
    "model-side": None,
    "guide-side": {"y": ["x"], "z": ["x", "y"]},
    "y-after-z": {"z": ["x"], "y": ["z"]},
}
# two draws of z per data point, in each case
PARTICLES = {"vae": 2, "model-side": 2, "guide-side": 1, "y-after-z": 2}


class FixedNoise(dist.Normal):
    """Its one draw is loc + 0.7 scale, so that results can be compared one by one."""

    def rsample(self, sample_shape=()):
        return (self.loc + 0.7 * self.scale).expand(self._extended_shape(sample_shape))

    def expand(self, batch_shape, _instance=None):
        return super().expand(batch_shape, self._get_checked_instance(FixedNoise, _instance))


def parameters_of(*pair):
    return [p for m in pair for p in m.parameters() if p.requires_grad]


@contextmanager
def last_gradients():
    """`{parameter: its gradient}` of the latest step that `fit` takes within."""
    actual, step = {}, torch.optim.AdamW.step

    def spy(optimizer, *args, **kwargs):
        for group in optimizer.param_groups:
            actual.update((p, p.grad.clone()) for p in group["params"] if p.grad is not None)
        return step(optimizer, *args, **kwargs)

    torch.optim.AdamW.step = spy
    try:
        yield actual
    finally:
        torch.optim.AdamW.step = step


def flat_gradient(loss, parameters):
    actual = torch.autograd.grad(loss, parameters, allow_unused=True)
    pairs = zip(actual, parameters, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])


def gradients(objective, pair, batch, parameters, runs=40, projected=False):
    """`[runs, P]`: gradients of the mean loss, each with noise of its own seed.

    Projected, two numbers for each parameter: of many, units that hardly ever switch on have no sd.
    """
    programs, size = tuple(map(as_keyword_program, pair)), len(batch["x"])
    rows = []
    for seed in range(runs):
        torch.manual_seed(seed)
        loss = objective.differentiable_loss(*programs, **batch) / size
        rows.append(flat_gradient(loss, parameters))
    rows = torch.stack(rows)
    if projected:
        torch.manual_seed(0)
        parts = rows.split([p.numel() for p in parameters], 1)
        rows = torch.cat([p @ torch.randn(p.shape[1], 2, dtype=p.dtype) for p in parts], 1)
    return rows


def assert_mean_is(actual, exact, sigmas=5):
    """The mean of the rows is `exact`, and would not be were a gradient lost."""
    error = actual.std(0) / len(actual) ** 0.5
    tiny = 1e-12 * (1 + exact.abs().max())
    assert ((actual.mean(0) - exact).abs() <= sigmas * error + tiny).all()
    assert (exact.abs() > 2 * sigmas * error).any()


def tiny_pair(case, seed=0):
    """One dimension of z, two components where there is a y; float64, weights not small."""
    torch.manual_seed(seed)
    likelihood = NormalLikelihood(scale=0.8)
    if case == "vae":
        model = pv.models.VAE((DATA,), 1, likelihood, SMALL)
    else:
        model = pv.models.MixtureVAE((DATA,), 2, 1, likelihood, SMALL)
    guide = pv.guides.Guide(model, GUIDES[case], network=SMALL)
    for module in (model.double(), guide.double()):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.4 * torch.randn(parameter.shape))
    return model, guide


def datum():
    return torch.tensor([[0.7, -1.1]], dtype=torch.float64)


def quadrature(case, model, guide, detach_draws=False):
    """`(weights [G], log_w [E, G], log_q [E, G], log_pi [E, 1 or G])` on a grid of two draws of z.

    `E` counts the entries of the bound: two particles of z; or of one particle the z of each y; or
    each y at each of two particles. `log_pi` is the probability of an entry's y in the guide. The
    draws are functions of the guide's parameters.
    """
    t, w = np.polynomial.hermite_e.hermegauss(NODES)
    t, w = torch.as_tensor(t), torch.as_tensor(w / w.sum())
    grid = torch.stack(torch.meshgrid(t, t, indexing="ij")).reshape(2, -1)
    weights = (w[:, None] * w).reshape(-1)
    x, eye = datum(), torch.eye(2, dtype=torch.float64)
    log_pi = torch.zeros(2, 1, dtype=torch.float64)
    if case == "guide-side":
        q, log_pi = guide.factors["z"](x=x, y=eye), guide.factors["y"](x=x).logits.T
    else:
        q = guide.factors["z"](x=x)
    loc, scale = q.base_dist.loc.squeeze(-1), q.base_dist.scale.squeeze(-1)
    loc, scale = (v.reshape(-1, 1).expand(2, 1) for v in (loc, scale))
    z = loc + scale * grid
    z = z.detach() if detach_draws else z
    log_q = torch.distributions.Normal(loc, scale).log_prob(z)
    log_p = model.p_x(z=z.unsqueeze(-1)).log_prob(x)
    if case == "vae":
        log_p = log_p + torch.distributions.Normal(0.0, 1.0).log_prob(z)
    else:
        prior = model.p_y().logits, model.p_z(y=eye).base_dist
        loc, scale = prior[1].loc[:, None], prior[1].scale[:, None]  # [y, 1, 1]
        prior = prior[0][:, None, None] + torch.distributions.Normal(loc, scale).log_prob(z)
        if case == "model-side":
            log_p = log_p + prior.logsumexp(0)
        elif case == "y-after-z":
            log_p, log_q = (log_p + prior).flatten(0, 1), log_q.repeat(2, 1)
            log_pi = guide.factors["y"](z=z.unsqueeze(-1)).logits.movedim(-1, 0).flatten(0, 1)
        else:
            log_p = log_p + prior.diagonal().mT  # entry e has y = e
    return weights, log_p - log_q, log_q, log_pi


class Coins(nn.Module):
    """x ~ Normal(mu_y, 1), y of three values; the guide's y is sampled."""

    def __init__(self):
        super().__init__()
        self.prior = nn.Parameter(torch.tensor([0.3, -0.2, 0.1]))
        self.mean = nn.Parameter(torch.tensor([-1.0, 0.5, 2.0]))
        self.guess = nn.Parameter(torch.tensor([0.4, 0.2, -0.5]))

    def model(self, x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(logits=self.prior))
            pyro.sample("x", dist.Normal(self.mean[y], 1.0), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Categorical(logits=self.guess))
