"""Latents that the model masks, and the guide does not: sequences of different lengths, exactly."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO

import pyro_vae as pv
from pyro_vae.conditionals import MLP

STEPS, DECAY, NOISE = 3, 0.8, 0.5
LENGTHS = torch.tensor([1, 2, 3, 3, 2, 1])
SEEN = torch.arange(STEPS) < LENGTHS[:, None]


def covariance(length):
    """Of the first values of a sequence."""
    transition = torch.tensor(
        [[DECAY ** (i - j) if j <= i else 0.0 for j in range(length)] for i in range(length)]
    ).double()
    return transition @ transition.T + NOISE**2 * torch.eye(length).double()


def sequences():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(len(LENGTHS), STEPS, generator=generator).double()
    return noise @ torch.linalg.cholesky(covariance(STEPS)).T * SEEN


X = sequences()
EXACT = torch.stack(
    [
        dist.MultivariateNormal(torch.zeros(n).double(), covariance(n)).log_prob(row[:n])
        for n, row in zip(LENGTHS.tolist(), X, strict=True)
    ]
)
DATA = {"x": X, "lengths": LENGTHS.double()}


def model(x, lengths):
    """A linear state space model: step t of a sequence exists if t < lengths."""
    with pyro.plate("data", len(x)):
        z = torch.zeros(len(x)).double()
        for t in range(STEPS):
            with poutine.mask(mask=t < lengths):
                z = pyro.sample(f"z{t}", dist.Normal(DECAY * z, 1.0))
                pyro.sample(f"x{t}", dist.Normal(z, NOISE), obs=x[:, t])


SCALE = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)


def guide(x, lengths):
    with pyro.plate("data", len(x)):
        for t in range(STEPS):
            pyro.sample(f"z{t}", dist.Normal(0.7 * x[:, t], SCALE))


def masked_guide(x, lengths):
    with pyro.plate("data", len(x)):
        for t in range(STEPS):
            with poutine.mask(mask=t < lengths):
                pyro.sample(f"z{t}", dist.Normal(0.7 * x[:, t], SCALE))


def test_importance_weights_of_a_guide_without_the_mask_reach_the_marginal():
    actual = pv.evaluate.log_likelihood(model, guide, num_samples=20_000, **DATA)
    torch.testing.assert_close(actual, EXACT, rtol=0, atol=0.05)


@pytest.mark.parametrize(
    "objective",
    [
        pv.objectives.ELBO(),  # of the pair that masks both, this is Pyro's own
        pv.objectives.ELBO(num_particles=4),
        pv.objectives.ELBO(beta=1 + 1e-14),
        pv.objectives.ELBO(analytic_kl=True),
        pv.objectives.IWAE(num_particles=4),
        pv.objectives.STL(),
        pv.objectives.DReG(num_particles=4),
        pv.objectives.RWS(num_particles=4),
    ],
)
def test_a_mask_of_the_model_is_one_of_the_guide(objective):
    losses = []
    for program in (guide, masked_guide):
        torch.manual_seed(0)
        losses.append(objective.differentiable_loss(model, program, **DATA))
    torch.testing.assert_close(*losses, rtol=1e-12, atol=0)
    for bound in (pv.evaluate.elbo, pv.evaluate.log_likelihood):
        values = [bound(model, program, num_samples=7, **DATA) for program in (guide, masked_guide)]
        torch.testing.assert_close(*values, rtol=1e-12, atol=0)


def test_training_a_declared_guide_ends_below_the_marginal():
    torch.manual_seed(0)
    given = {"z0": ["x"], "z1": ["x", "z0"], "z2": ["x", "z1"]}
    declared = pv.guides.Guide(model, given, network=MLP((16,)), example=DATA).double()
    pv.fit(model, declared, DATA, epochs=300, lr=1e-2, schedule="cosine", progress=False)
    bound = pv.evaluate.elbo(model, declared, num_samples=500, **DATA)
    assert (bound < EXACT + 0.02).all() and (EXACT - bound).mean() < 0.05


def test_an_enumerated_latent_that_the_model_masks():
    """p(x) where y is in the model; where it is not, x is normal alone."""
    x, has_y = torch.tensor([0.3, 2.0, -1.0, 0.5]), torch.tensor([True, False, True, False])

    def mixture(x, has_y):
        with pyro.plate("data", len(x)):
            with poutine.mask(mask=has_y.bool()):
                y = pyro.sample("y", dist.Bernoulli(0.3 * torch.ones(len(x))))
            pyro.sample("x", dist.Normal(torch.where(has_y.bool(), 3.0 * y, 0.0), 1.0), obs=x)

    def of_y(x, has_y):
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Bernoulli(0.6 * torch.ones(len(x))))

    both = torch.stack([dist.Normal(3.0 * k, 1.0).log_prob(x) for k in (0, 1)])
    prior = torch.tensor([[0.7], [0.3]]).log()
    exact = torch.where(has_y, (both + prior).logsumexp(0), both[0])
    data = {"x": x, "has_y": has_y.float()}
    torch.testing.assert_close(
        pv.evaluate.log_likelihood(mixture, of_y, num_samples=2, **data), exact
    )


@pytest.mark.slow
def test_annealing_and_nuts_draw_a_masked_latent_from_its_prior():
    log_p = pv.diagnostics.ais(model, num_chains=64, num_steps=200, seed=0, **DATA)
    torch.testing.assert_close(log_p, EXACT.to(log_p), rtol=0, atol=0.15)
    short = {"x": X[:1], "lengths": DATA["lengths"][:1]}
    run = pv.diagnostics.nuts_posterior(model, num_samples=150, warmup=60, num_chains=2, **short)
    z1 = run.draws["z1"].flatten().double()
    z0 = run.draws["z0"].flatten().double()
    gain = 1 / (1 + NOISE**2)
    assert abs(z0.mean() - gain * X[0, 0]) < 0.1
    assert abs(z1.std() - math.sqrt(1 + DECAY**2 * (1 - gain))) < 0.2


def test_surgery_of_rows_without_the_latent_is_refused():
    def whole(x, lengths):
        with pyro.plate("data", len(x)), poutine.mask(mask=lengths > 1):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    def q(x, lengths):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, 0] / 2, 0.7))

    with pytest.raises(pv.UserError, match="'z' is masked in some rows"):
        pv.diagnostics.elbo_surgery(whole, q, **DATA)
    longer = {name: value[LENGTHS > 1] for name, value in DATA.items()}
    assert pv.diagnostics.elbo_surgery(whole, q, **longer)["z"]["mutual_information"] > 0


@pytest.mark.parametrize("how", ["distribution", "handler"])
def test_a_flat_prior_keeps_its_log_q(how):
    """z has no density of its own, and x depends on it: as in Pyro, and exactly."""

    def flat(x):
        prior = dist.Normal(torch.zeros(len(x)), 1.0)
        prior = prior.mask(False) if how == "distribution" else prior
        with pyro.plate("data", len(x)):
            with poutine.mask(mask=how == "distribution"):
                z = pyro.sample("z", prior)
            pyro.sample("prior", dist.Normal(z, 1.0), obs=torch.zeros(len(x)))
            pyro.sample("x", dist.Normal(z, NOISE), obs=x)

    precision = 1 + NOISE**-2

    def posterior(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / NOISE**2 / precision, SCALE.float()))

    x = X[:, 0].float()  # Pyro's own masked distributions are of float32
    exact = dist.Normal(0.0, math.sqrt(1 + NOISE**2)).log_prob(x)
    bound = pv.evaluate.log_likelihood(flat, posterior, x, num_samples=20_000)
    torch.testing.assert_close(bound, exact, rtol=0, atol=0.02)
    losses = []
    for objective in (pv.objectives.ELBO(), pv.objectives.ELBO(beta=1 + 1e-14), Trace_ELBO()):
        torch.manual_seed(0)
        losses.append(float(objective.differentiable_loss(flat, posterior, x)))
    assert losses[0] == pytest.approx(losses[2], rel=1e-6)
    assert losses[1] == pytest.approx(losses[2], rel=1e-6)
    assert pv.programs.layout_of(flat, posterior, {"x": x}).absent == frozenset()
    assert pv.programs.layout_of(model, guide, DATA).absent == {"z0", "z1", "z2"}


def test_a_masked_latent_that_a_factor_depends_on_has_an_effect():
    def scored(x):
        with pyro.plate("data", len(x)):
            with poutine.mask(mask=x > 0):
                z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
            pyro.factor("score", -(z**2))
            pyro.sample("x", dist.Normal(0.0, 1.0).expand([len(x)]), obs=x)

    def q(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, SCALE).expand([len(x)]))

    assert pv.programs.layout_of(scored, q, {"x": X[:, 0]}).absent == frozenset()
