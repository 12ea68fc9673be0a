"""Pairs that this project did not write, in the manner of Pyro's public examples."""

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn as nn
from pyro.contrib.easyguide import EasyGuide
from pyro.infer import config_enumerate
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroParam
from torch.distributions import constraints

import pyro_vae as pv

D, K, LATENT, N = 6, 3, 2, 40


def binary():
    p = torch.tensor([[0.9, 0.9, 0.9, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.9, 0.9, 0.9]])
    kind = torch.arange(N) % 2
    return torch.bernoulli(p[kind], generator=torch.Generator().manual_seed(1))


class Encoder(nn.Module):
    def __init__(self, inputs=D):
        super().__init__()
        self.hidden = nn.Linear(inputs, 8)
        self.loc, self.scale = nn.Linear(8, LATENT), nn.Linear(8, LATENT)

    def forward(self, x):
        h = torch.tanh(self.hidden(x))
        return self.loc(h), torch.exp(0.5 * self.scale(h))


class Decoder(nn.Module):
    def __init__(self, inputs=LATENT):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(inputs, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, D))

    def forward(self, z):
        return torch.sigmoid(self.net(z))


class TutorialVAE(nn.Module):
    """One module, whose methods are model and guide; it registers its networks with Pyro."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = Encoder(), Decoder()

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            loc, scale = x.new_zeros(x.shape[0], LATENT), x.new_ones(x.shape[0], LATENT)
            z = pyro.sample("latent", dist.Normal(loc, scale).to_event(1))
            p = self.decoder(z)
            pyro.sample("obs", dist.Bernoulli(p).to_event(1), obs=x.reshape(-1, D))
            return p

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            loc, scale = self.encoder(x.reshape(-1, D))
            pyro.sample("latent", dist.Normal(loc, scale).to_event(1))


class SemiSupervised(nn.Module):
    """y observed or not; enumerated by the decorator, its law over indices."""

    def __init__(self):
        super().__init__()
        self.encoder_y, self.encoder_z = nn.Linear(D, K), Encoder(D + K)
        self.decoder = Decoder(LATENT + K)

    @staticmethod
    def join(a, y):
        y = torch.eye(K)[y]
        shape = torch.broadcast_shapes(a.shape[:-1], y.shape[:-1])
        return torch.cat([a.expand(shape + (-1,)), y.expand(shape + (-1,))], -1)

    def model(self, xs, ys=None):
        pyro.module("ss_vae", self)
        with pyro.plate("data", xs.size(0)):
            zs = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            ys = pyro.sample("y", dist.Categorical(torch.ones(K) / K), obs=ys)
            p = self.decoder(self.join(zs, ys))
            pyro.sample("x", dist.Bernoulli(p, validate_args=False).to_event(1), obs=xs)

    @config_enumerate
    def guide(self, xs, ys=None):
        with pyro.plate("data", xs.size(0)):
            if ys is None:
                ys = pyro.sample("y", dist.Categorical(logits=self.encoder_y(xs)))
            loc, scale = self.encoder_z(self.join(xs, ys))
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))


class PyroModel(PyroModule):
    def __init__(self):
        super().__init__()
        self.decoder = PyroModule[nn.Linear](LATENT, D)
        self.scale = PyroParam(torch.tensor(0.7), constraint=constraints.positive)

    def forward(self, x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), self.scale).to_event(1))
            pyro.sample("obs", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)


class PyroGuide(PyroModule):
    def __init__(self):
        super().__init__()
        self.encoder = PyroModule[Encoder](D)

    def forward(self, x):
        with pyro.plate("rows", len(x)):
            loc, scale = self.encoder(x)
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))


class Easy(EasyGuide):
    """Both latents in one group, whose law is a full normal with a mean by a network."""

    def __init__(self, model):
        super().__init__(model)
        self.net = nn.Linear(D, LATENT + 1)

    def guide(self, x):
        group = self.group(match="[uv]")
        tril = pyro.param("tril", lambda: 0.7 * torch.eye(LATENT + 1), constraints.lower_cholesky)
        with self.plate("data", x.shape[0], dim=-1):
            group.sample("uv", dist.MultivariateNormal(self.net(x), scale_tril=tril))


def functions():
    """Two plain functions, with pyro.param in them."""

    def model(data):
        w = pyro.param("w", lambda: 0.1 * torch.randn(LATENT, D))
        b = pyro.param("b", torch.zeros(D))
        with pyro.plate("data", data.size(0)):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=z @ w + b).to_event(1), obs=data)

    def guide(data):
        a = pyro.param("a", lambda: 0.1 * torch.randn(D, LATENT))
        scale = pyro.param("scale", torch.full((LATENT,), 0.8), constraints.positive)
        with pyro.plate("data", data.size(0)):
            pyro.sample("z", dist.Normal(data @ a, scale).to_event(1))

    return model, guide


def tutorial():
    vae = TutorialVAE()
    return vae.model, vae.guide


def semi_supervised():
    pair = SemiSupervised()
    return pair.model, pair.guide


def easy():
    decoder = Decoder(LATENT + 1)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x), dim=-1):
            u = pyro.sample("u", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            v = pyro.sample("v", dist.Gamma(2.0, 1.0))
            p = decoder(torch.cat([u, v.unsqueeze(-1)], -1))
            pyro.sample("x", dist.Bernoulli(p).to_event(1), obs=x)

    return model, Easy(model)


def auto_normal():
    """`create_plates` subsamples the guide's rows as the model does."""
    decoder = Decoder()

    def plate(x, index=None):
        return pyro.plate("data", N, subsample=index, dim=-1)

    def model(x, index=None):
        pyro.module("decoder", decoder)
        with plate(x, index):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(decoder(z)).to_event(1), obs=x)

    return model, AutoNormal(model, create_plates=plate)


PAIRS = {
    "VAE class with pyro.module": tutorial,
    "ss_vae with config_enumerate": semi_supervised,
    "functions with pyro.param": functions,
    "PyroModules": lambda: (PyroModel(), PyroGuide()),
    "EasyGuide": easy,
    "AutoNormal with create_plates": auto_normal,
}


@pytest.fixture(params=PAIRS)
def stranger(request):
    """A pair, data, and what else it must be given."""
    others = {"index": torch.arange(N)} if "AutoNormal" in request.param else {}
    return *PAIRS[request.param](), binary(), others


def test_a_strangers_pair_trains(stranger):
    model, guide, x, others = stranger
    pv.check_pair(model, guide, x, **others)
    before = pv.evaluate.elbo(model, guide, x, num_samples=50, **others).mean()
    run = pv.fit(model, guide, x, epochs=60, lr=0.02, batch_size=16, progress=False, device="cpu")
    after = pv.evaluate.elbo(model, guide, x, num_samples=50, **others).mean()
    assert after > before + 0.3
    assert len(run.history) == 60


def test_a_strangers_pair_is_judged(stranger):
    model, guide, x, others = stranger
    pv.check_pair(model, guide, x, **others)
    elbo = pv.evaluate.elbo(model, guide, x, num_samples=400, **others)
    terms = pv.evaluate.elbo_terms(model, guide, x, num_samples=400, **others)
    torch.testing.assert_close(sum(terms.values()), elbo)
    bound = pv.evaluate.log_likelihood(model, guide, x, num_samples=400, **others)
    assert elbo.shape == bound.shape == (N,)
    assert (bound > elbo - 0.05).all() and bound.mean() > elbo.mean() + 1e-3
    assert (bound < 0).all()  # binary data: a probability
    draws = pv.evaluate.posterior(model, guide, x, **others)
    assert all(len(v) == N for v in draws.values())
    assert pv.evaluate.reconstruct(
        model, guide, x, site="obs" if "obs" in terms else "x", **others
    ).shape == (N, D)


def test_a_strangers_model_samples_given_a_datum_for_its_shape(stranger):
    model, guide, x, others = stranger
    pv.check_pair(model, guide, x, **others)
    site = "obs" if "obs" in pv.evaluate.elbo_terms(model, guide, x, **others) else "x"
    with pytest.raises(pv.UserError, match="pass example="):
        pv.sample(model, 3)
    draws = pv.sample(model, 2000, example={"x": x, **others}, site=site, seed=0)
    assert draws.shape == (2000, D) and set(draws.unique().tolist()) == {0.0, 1.0}
    means = pv.sample(model, 2000, example={"x": x, **others}, site=site, seed=1, mean=True)
    torch.testing.assert_close(draws.mean(0), means.mean(0), atol=0.05, rtol=0)


def test_the_modules_of_functions_are_found_moved_and_put_in_eval_mode():
    """Dropout in a network that a function names is off in evaluation, and on again after it."""
    model, guide = tutorial()
    x = binary()
    decoder = model.__self__.decoder
    assert pv.pair.modules(model, guide) == [model.__self__]
    torch.testing.assert_close(
        *(pv.evaluate.reconstruct(model, guide, x, site="obs") for _ in range(2)), rtol=0, atol=0
    )
    assert decoder.training
    model, guide = easy()
    assert {type(m) for m in pv.pair.modules(model, guide)} == {Decoder, Easy}


def test_two_of_a_kind_start_from_the_callers_own_seed():
    """Lazy parameters are drawn from the stream that the caller left, not from one of the check's."""
    x, first = binary(), []
    for seed in (1, 2):
        pyro.clear_param_store()
        torch.manual_seed(seed)
        model, guide = functions()
        pv.check_pair(model, guide, x)
        first.append(pyro.param("w").detach().clone())
    assert not torch.equal(*first)


def test_labels_are_observed_by_the_models_own_name_for_them():
    """log p(x, y) of every y sums to log p(x), and labels train by the objective, by theirs."""
    model, guide = semi_supervised()
    x = binary()
    bound = pv.evaluate.log_likelihood(model, guide, x, num_samples=3000)
    parts = [
        pv.evaluate.log_likelihood(model, guide, x, num_samples=3000, ys=torch.full((N,), k))
        for k in range(K)
    ]
    torch.testing.assert_close(torch.stack(parts).logsumexp(0), bound, atol=0.05, rtol=0)
    y = torch.arange(N) % 2
    y[8:] = -1
    objective = pv.objectives.SemiSupervised(alpha=1.0)
    pv.fit(
        model, guide, (x, y), epochs=40, lr=0.02, batch_size=10, objective=objective, progress=False
    )
    found = pv.evaluate.responsibilities(model, guide, x).argmax(-1)
    assert (found == torch.arange(N) % 2).double().mean() > 0.9


def test_labels_by_a_name_that_nobody_takes_are_refused():
    model, guide = semi_supervised()
    with pytest.raises(pv.UserError, match="neither model nor guide takes 'y'; did you mean 'ys'"):
        pv.fit(model, guide, (binary(), torch.zeros(N, dtype=torch.long)), observe=("x", "y"))


def test_an_auto_guide_whose_rows_would_miss_their_data_is_refused():
    model = pv.models.VAE((D,), LATENT)
    with pytest.raises(pv.UserError, match=r"pv.guides.Auto\(AutoNormal, model, num_data=N\)"):
        pv.fit(model, AutoNormal(model), binary(), epochs=1, progress=False)


def test_an_auto_normal_of_a_strangers_meets_its_own_data_in_any_order():
    """Rows by `create_plates` and `index`: fitted to shuffled minibatches, each is its datum's."""
    x = torch.randn(N, 1, generator=torch.Generator().manual_seed(3))

    def plate(x, index=None):
        return pyro.plate("data", N, subsample=index, dim=-1)

    def model(x, index=None):
        with plate(x, index):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1), 0.5).to_event(1), obs=x)

    guide = AutoNormal(model, create_plates=plate)
    options = {"lr": 0.05, "batch_size": 7, "schedule": "cosine", "progress": False}
    pv.fit(model, guide, x, epochs=200, **options)
    code = pv.evaluate.encode(model, guide, x, index=torch.arange(N))["z"]
    torch.testing.assert_close(code, 0.8 * x[:, 0], atol=0.35, rtol=0)
