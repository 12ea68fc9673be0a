"""Advice about a run that works, but not as intended: for any pair, and for data of any kind."""

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal
from test_methods import advice, of_latents
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pyro_vae as pv
from pyro_vae.evaluate.likelihood import latent_kl
from pyro_vae.evaluate.prior_components import prior_responsibilities
from pyro_vae.methods.advice import Advice, check_use

NET = pv.conditionals.MLP((8,))
NOISE = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))


def line(num_data=64):
    """Data on a line, with a little noise: z has something to say."""
    torch.manual_seed(0)
    return torch.randn(num_data, 1) @ torch.randn(1, 4) * 2 + 0.1 * torch.randn(num_data, 4)


def vae(prior=None):
    torch.manual_seed(0)
    model = pv.models.VAE((4,), 2, "normal", NET, prior=prior)
    return model, pv.guides.Guide(model, network=NET)


class UserModel(nn.Module):
    """x ~ Normal(f(z), 1), observed at the site "obs"."""

    def __init__(self, used=True):
        super().__init__()
        self.decoder, self.used = nn.Linear(2, 4), used

    def forward(self, data):
        with pyro.plate("rows", len(data)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1).to_event(1))
            mean = self.decoder(z) if self.used else torch.zeros(4)
            pyro.sample("obs", dist.Normal(mean, 0.5).to_event(1), obs=data)


class UserGuide(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(4, 4)

    def forward(self, data):
        loc, log_scale = self.encoder(data).chunk(2, -1)
        with pyro.plate("rows", len(data)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


# --------------------------------------------------------------------- latents without information


@pytest.mark.parametrize(
    "batch", [lambda x: x, lambda x: (x, torch.zeros(len(x))), lambda x: {"x": x}]
)
def test_a_collapse_on_a_loader_warns_as_on_a_tensor(batch):
    batches = [batch(x) for x in NOISE.split(16)]
    options = {"epochs": 25, "lr": 1e-2, "objective": pv.objectives.ELBO(beta=50.0)}
    messages = [advice(*vae(), data, **options) for data in (NOISE, batches)]
    for (message,) in messages:
        assert "posterior collapse" in message and "\n" not in message


def test_latents_that_are_used_on_a_loader_are_not_warned_of():
    loader = DataLoader(TensorDataset(line()), batch_size=16, shuffle=True)
    assert advice(*vae(), loader, epochs=60, lr=1e-2) == []


def test_the_check_of_a_loader_leaves_the_random_stream_alone():
    loader = DataLoader(TensorDataset(NOISE), batch_size=16, shuffle=True)
    pair = vae()
    state = torch.get_rng_state()
    check_use(*pair, loader)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("used", [False, True])
def test_a_user_model_whose_latent_has_no_effect_warns(used):
    torch.manual_seed(0)
    pair = UserModel(used), UserGuide()
    messages = advice(*pair, line(), epochs=60, lr=3e-2, batch_size=16)
    assert len(messages) == (not used)
    assert all("posterior collapse: the KL of every latent (z)" in m for m in messages)


@pytest.mark.parametrize("autoguide", [AutoMultivariateNormal, AutoDelta])
def test_the_kl_of_latents_that_are_drawn_as_one_or_are_points(autoguide):
    """One vector for all latents has one KL, that of the whole ELBO; a point has none."""
    torch.manual_seed(0)
    x, model = NOISE[:5], UserModel()
    guide = autoguide(model)
    index = {}
    if autoguide is AutoMultivariateNormal:
        index = {"index": torch.arange(5)}
        guide = pv.guides.PerDatumAutoGuide(autoguide, model, example={"x": x})
    kls = latent_kl(model, guide, x, num_samples=3, **index)
    if autoguide is AutoDelta:
        assert kls == {}
        return
    terms = pv.evaluate.elbo_terms(model, guide, x, num_samples=3, **index)
    total = -sum(term for name, term in terms.items() if name != "obs")
    assert list(kls) == ["z"] and torch.allclose(kls["z"], total)


def test_the_warning_is_at_the_line_of_the_callers_program():
    pair = vae()
    options = {"epochs": 25, "lr": 1e-2, "objective": pv.objectives.ELBO(beta=50.0)}
    with pytest.warns(Advice) as caught:
        pv.fit(*pair, NOISE, progress=False, device="cpu", compile=False, **options)
    assert [w.filename for w in caught if issubclass(w.category, Advice)] == [__file__]


# ------------------------------------------------------------------------- components without data


def mixture_prior(logits):
    """A VAE that has learned, with a prior of two components on one of which all data lie, or not."""
    torch.manual_seed(0)
    prior = pv.models.MixturePrior(2, num_components=2)
    model, guide = vae(prior)
    x = line()
    pv.fit(model, guide, x, epochs=60, lr=1e-2, progress=False, device="cpu", compile=False)
    with torch.no_grad():
        prior.p_y.logits.copy_(torch.tensor(logits))
        prior.p_z.head.maps["y"].weight.zero_()
        prior.p_z.head.bias.zero_()
        prior.p_z.head.maps["y"].weight[0] = torch.tensor([1.0, -1.0])
    return model, guide, x


def test_the_components_of_a_prior_follow_bayes_rule():
    model, guide, x = mixture_prior([0.3, -0.3])
    p = prior_responsibilities(model, guide, x, seed=3)["z"]
    z = pv.evaluate.sample_posterior(model, guide, x, seed=3)["z"]
    prior = model.p_z()
    joint = torch.stack(
        [
            prior.mixture_distribution.probs[k]
            * dist.Normal(*(getattr(prior.component_distribution.base_dist, n)[k] for n in ("loc", "scale")))
            .log_prob(z).sum(-1).exp()
            for k in range(2)
        ],
        -1,
    )  # fmt: skip
    assert torch.allclose(p, joint / joint.sum(-1, keepdim=True), atol=1e-5)


@pytest.mark.parametrize("logits, warned", [([12.0, 0.0], True), ([0.0, 0.0], False)])
def test_a_mixture_prior_of_which_one_component_is_used_warns(logits, warned):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert check_use(*mixture_prior(logits)[:2], pv.data.from_arrays(line())) == warned
    messages = of_latents(caught)
    assert len(messages) == warned
    assert all("one of the 2 components in the prior of 'z'" in m for m in messages)


@pytest.mark.parametrize("num_values, warned", [(3, True), (2, False)])
def test_a_discrete_latent_of_a_user_model_with_one_value_warns(num_values, warned):
    """One of two values may be a rare event, and is not warned of."""
    weights = torch.full((num_values,), 1e-4)
    weights[0] = 1.0

    class Mixture(UserModel):
        def forward(self, data):
            with pyro.plate("rows", len(data)):
                kind = dist.Categorical(weights)
                kind = pyro.sample("kind", kind, infer={"enumerate": "parallel"})
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1).to_event(1))
                mean = self.decoder(z) + 0 * kind.unsqueeze(-1)
                pyro.sample("obs", dist.Normal(mean, 0.5).to_event(1), obs=data)

    torch.manual_seed(0)
    messages = advice(Mixture(), UserGuide(), line(), epochs=60, lr=1e-2)
    assert len(messages) == warned
    assert all(f"one of the {num_values} values of 'kind'" in m for m in messages)


# ------------------------------------------------------------------- components that start at random


def clusters():
    torch.manual_seed(0)
    centers = torch.tensor([[-6.0, 0.0], [6.0, 0.0]])
    x = (centers.unsqueeze(1) + torch.randn(2, 100, 2)).flatten(0, 1)
    return pv.data.from_arrays(x, torch.arange(2).repeat_interleave(100), valid=40, test=0)


def mixture(kind, given=None):
    torch.manual_seed(0)
    model = kind((2,), 2, 2, likelihood="normal", network=NET)
    return model, pv.guides.Guide(model, given=given, network=NET)


def start_advice(pair, data=None, epochs=10, **options):
    """The warnings of a run about its random start."""
    messages = advice(
        *pair, clusters() if data is None else data, epochs=epochs, lr=1e-2, **options
    )
    return [m for m in messages if "MixtureInitialization" in m]


@pytest.mark.parametrize("kind", [pv.models.GMVAE, pv.models.MixtureVAE])
def test_a_mixture_from_random_weights_is_advised_once_to_start_from_a_mixture(kind):
    (message,) = start_advice(mixture(kind))
    assert "random weights" in message and "initialize=None" in message and "\n" not in message


def test_a_start_that_was_chosen_is_not_advised_upon():
    start = pv.train.MixtureInitialization(epochs=2, fits=1, compile=False)
    for initialize in (start, None):
        assert start_advice(mixture(pv.models.MixtureVAE), initialize=initialize) == []


def test_a_run_that_continues_is_not_advised_upon():
    """Nor one of weights that were initialized, or loaded, before the call."""
    pair = mixture(pv.models.GMVAE)
    assert len(start_advice(pair)) == 1
    assert start_advice(pair) == []
    copy = mixture(pv.models.GMVAE)
    copy[0].load_state_dict(pair[0].state_dict())
    assert start_advice(copy) == []
    vade = mixture(pv.models.MixtureVAE)
    start = pv.train.MixtureInitialization(epochs=2, fits=1, compile=False)
    start(*vade, clusters(), torch.device("cpu"), progress=False)
    assert start_advice(vade) == []


@pytest.mark.parametrize("given", [None, {"y": ["x"], "z": ["x", "y"]}])
def test_labels_and_guides_without_such_a_start_are_not_advised_upon(given):
    pair = mixture(pv.models.MixtureVAE, given)
    options = {"observed": ("x", "y")} if given is None else {}
    assert start_advice(pair, **options) == []


def test_a_preset_that_asks_for_random_weights_is_not_advised_upon():
    options = {"hidden": [8], "latent_dim": 2, "num_components": 2, "initialize": None}
    method = pv.method("vade", clusters(), epochs=10, **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        method.fit(progress=False, device="cpu")
    assert not [w for w in caught if "random weights" in str(w.message)]
