"""Parameters, values and shapes that a distribution cannot have: one line each, before training."""

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv

X = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
BINARY = (X > 0).float()


def pair(prior, likelihood, posterior=None):
    """z of two numbers; what is observed is a linear function of it."""
    torch.manual_seed(0)
    decoder, encoder = torch.nn.Linear(2, 5), torch.nn.Linear(5, 4)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior(len(x)))
            pyro.sample("x", likelihood(decoder(z)), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        mean, raw = encoder(x).chunk(2, -1)
        fn = dist.Normal(mean, raw.exp()) if posterior is None else posterior(mean, raw)
        with pyro.plate("data", len(x)):
            pyro.sample("z", fn.to_event(1))

    return model, guide


def standard_normal(n):
    return dist.Normal(torch.zeros(n, 2), 1.0).to_event(1)


def normal(h):
    return dist.Normal(h, 0.3).to_event(1)


def positive(n):
    return dist.Exponential(torch.ones(n, 2)).to_event(1)


MISTAKES = {
    "probabilities": (
        pair(standard_normal, lambda h: dist.Bernoulli(h).to_event(1)), BINARY,
        "probs of 'x' in the model is .* between 0 and 1: torch.sigmoid",
    ),
    "counts": (
        pair(standard_normal, lambda h: dist.Poisson(h).to_event(1)), BINARY,
        "rate of 'x' in the model is -.* must be at least 0",
    ),
    "scale of the likelihood": (
        pair(standard_normal, lambda h: dist.Laplace(0.0, h).to_event(1)), X,
        "scale of 'x' in the model is -.* must be above 0: .exp()",
    ),
    "scale of the guide": (
        pair(standard_normal, normal, dist.Normal), X,
        "scale of 'z' in the guide is -.* must be above 0: .exp()",
    ),
    "event of all rows": (
        pair(standard_normal, lambda h: dist.Normal(h, 0.3).to_event(2)), X,
        r"value of 'x' in the model has shape \[\d+, 5\], its distribution \[\d+\] \+ \[\d+, 5\]",
    ),
    "one output for five columns": (
        pair(standard_normal, lambda h: dist.Normal(h[:, :1], 0.3).to_event(1)), X,
        r"value of 'x' in the model has shape \[\d+, 5\], its distribution \[\d+\] \+ \[1\]",
    ),
    "positive latent": (
        pair(positive, normal), X,
        r"the guide draws 'z' outside its support in the model \(Exponential\): -.* at least 0",
    ),
    "latent in an interval": (
        pair(lambda n: dist.Uniform(torch.zeros(n, 2), 1.0).to_event(1), normal), X,
        "the guide draws 'z' outside its support .* between 0 and 1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_wherever_the_pair_is_first_run(mistake):
    programs, x, message = MISTAKES[mistake]
    for call in (
        lambda: pv.check_pair(*programs, x),
        lambda: pv.fit(*programs, x, epochs=1, progress=False),
        lambda: pv.evaluate.elbo(*programs, x),
        lambda: pv.evaluate.log_likelihood(*programs, x, num_samples=3),
    ):
        pv.programs.forget_layout(programs[0])
        with pytest.raises(pv.UserError, match=message):
            call()


@pytest.mark.parametrize(
    "programs, x",
    [
        (pair(standard_normal, normal), X),
        (pair(standard_normal, lambda h: dist.Bernoulli(logits=h).to_event(1)), BINARY),
        (pair(positive, normal, lambda m, s: dist.LogNormal(m, s.exp())), X),
        (
            pair(
                lambda n: dist.Uniform(torch.zeros(n, 2), 1.0).to_event(1), normal,
                lambda m, s: dist.Beta(m.exp(), s.exp()),
            ), X,
        ),
        (pair(standard_normal, lambda h: dist.Normal(h.mean(-1, keepdim=True), 1.0)
              .expand([len(h), 5]).to_event(1)), X),
    ],
)  # fmt: skip
def test_pairs_without_the_mistake_pass(programs, x):
    pv.check_pair(*programs, x)


def with_site(fn, obs, mask=True):
    """A pair with one more observed site, of z."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", standard_normal(len(x)))
            with pyro.poutine.mask(mask=mask if mask is True else mask(x)):
                pyro.sample("more", fn(z), obs=obs(z))
            pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0).to_event(1), obs=x[:, :1])

    return model, pair(standard_normal, normal)[1]


MORE = {
    "one number for all rows": with_site(
        lambda z: dist.Normal(z.sum(-1), 0.1), lambda z: torch.tensor(0.0)
    ),
    "one number for all values": with_site(
        lambda z: dist.Normal(z, 0.1).to_event(1), lambda z: torch.tensor(0.0)
    ),
    "a vector for all rows": with_site(
        lambda z: dist.Normal(z, 0.1).to_event(1), lambda z: torch.zeros(2)
    ),
    "a row for all rows": with_site(
        lambda z: dist.Normal(z, 0.1).to_event(1), lambda z: torch.zeros(1, 2)
    ),
    "a probability of one and a rounding": with_site(
        lambda z: dist.Bernoulli(torch.full((len(z),), 1 + 1.2e-7)), lambda z: torch.ones(len(z))
    ),
    "a saturated probability": with_site(
        lambda z: dist.NegativeBinomial(3.0, probs=torch.sigmoid(torch.full((len(z),), 30.0))),
        lambda z: torch.ones(len(z)),
    ),
    "any parameters where a row is masked": with_site(
        lambda z: dist.Normal(0.0, torch.where(torch.arange(len(z)) % 2 == 0, 1.0, -1.0)),
        lambda z: torch.zeros(len(z)),
        mask=lambda x: torch.arange(len(x)) % 2 == 0,
    ),
}


@pytest.mark.parametrize("kind", MORE)
def test_what_plain_pyro_allows_passes(kind):
    pv.check_pair(*MORE[kind], X)


def test_a_distribution_of_a_users_own_may_list_parameters_that_it_has_not():
    class Odd(dist.Normal):
        arg_constraints = {**dist.Normal.arg_constraints, "none": dist.constraints.positive}

    odd = with_site(lambda z: Odd(z.sum(-1), 1.0, validate_args=False), lambda z: z[:, 0])
    pv.check_pair(*odd, X)


class Shrinking(torch.nn.Module):
    """A model whose scale goes to zero, and beyond."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.05))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", standard_normal(len(x)))
            mean = 0 * z.sum(-1, keepdim=True).expand(-1, 5)
            pyro.sample("x", dist.Normal(mean, self.scale).to_event(1), obs=x)


def test_a_parameter_that_leaves_its_domain_in_training_is_named():
    guide = pair(standard_normal, normal)[1]
    with pytest.raises(pv.UserError, match="at site 'x', .*its scale is -.* must be above 0"):
        pv.fit(Shrinking(), guide, 0 * X, epochs=60, lr=0.03, progress=False, compile=False)


def fixed_plate(x):
    with pyro.plate("data", 30):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0).to_event(1), obs=x[:, :1])


def test_a_plate_of_another_size_than_the_batch_is_named():
    guide = pair(standard_normal, normal)[1]
    with pytest.raises(pv.UserError, match=r"plate 'data' has 30 rows, .* 16: .*len\(x\)"):
        pv.fit(fixed_plate, guide, X, epochs=1, batch_size=16, progress=False)


def test_a_guide_that_training_does_not_change_is_advised_of():
    model, good = pair(standard_normal, normal)
    fixed = torch.nn.Linear(5, 2)

    def made_at_each_call(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.nn.Linear(5, 2)(x), 0.5).to_event(1))

    def without_gradient(x):
        with torch.no_grad():
            mean = fixed(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(mean, 0.5).to_event(1))

    frozen = torch.nn.Linear(5, 2).requires_grad_(False)

    def frozen_on_purpose(x):
        pyro.module("frozen", frozen)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(frozen(x), 0.5).to_event(1))

    guides = {
        made_at_each_call: True,
        without_gradient: True,
        good: False,
        frozen_on_purpose: False,
    }
    for guide, expected in guides.items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            pv.fit(model, guide, X, epochs=25, progress=False)
        found = any("does not change the guide" in str(w.message) for w in caught)
        assert found == expected
