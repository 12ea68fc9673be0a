"""How draws and discrete latents are laid out: found by trial, and right for any program."""

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn as nn
from pyro.infer import Trace_ELBO

import pyro_vae as pv
from pyro_vae.conditionals import MLP
from pyro_vae.guides import Guide, PriorGuide, SemiAmortized
from pyro_vae.programs import forget_layout, layout_of

D, K = 6, 3
NET = MLP((5,))
GIVEN = {
    "shu": {"y": ["x"], "z": ["x", "y"]},
    "first": {"w": ["x"], "z": ["x"], "y": ["x"]},
}


def binary(n=20):
    generator = torch.Generator().manual_seed(1)
    return torch.bernoulli(torch.full((n, D), 0.5), generator=generator)


OURS = {
    "vae": lambda: (pv.models.VAE((D,), 2, network=NET), {}),
    "mixture posterior": lambda: (
        pv.models.VAE((D,), 2, network=NET),
        {"family": {"z": pv.conditionals.MixtureOfNormals(3)}},
    ),
    "flow posterior": lambda: (
        pv.models.VAE((D,), 2, network=NET),
        {"family": {"z": pv.conditionals.Flow("maf")}},
    ),
    "mixture vae": lambda: (pv.models.MixtureVAE((D,), K, 2, network=NET), {}),
    "shu": lambda: (pv.models.MixtureVAE((D,), K, 2, network=NET), {"given": GIVEN["shu"]}),
    "gmvae": lambda: (pv.models.GMVAE((D,), K, network=NET), {}),
    "gmvae, first": lambda: (pv.models.GMVAE((D,), K, network=NET), {"given": GIVEN["first"]}),
    "m2": lambda: (pv.models.M2((D,), K, network=NET), {}),
    "m2, score function": lambda: (
        pv.models.M2((D,), K, network=NET),
        {"discrete": "score_function"},
    ),
    "m1 + m2": lambda: (pv.models.M1M2((D,), K, network=NET), {}),
    "auxiliary": lambda: (pv.models.AuxiliaryDGM((D,), K, network=NET), {}),
    "hierarchical": lambda: (pv.models.HierarchicalVAE((D,), network=NET), {}),
}


@pytest.mark.parametrize("name", OURS)
def test_this_librarys_pairs_run_once_with_draws_in_a_plate_and_values_in_parallel(name):
    model, options = OURS[name]()
    guide = Guide(model, network=NET, **options)
    for q in (guide, SemiAmortized(model, guide, steps=1), PriorGuide(model)):
        layout = layout_of(model, q, {"x": binary()})
        assert (layout.particles, layout.discrete) == ("plate", "parallel")
        assert layout.divisible and not layout.fixed


def counts():
    """The program of a user who counts dimensions from the left: `softmax(h, dim=1)`."""
    torch.manual_seed(0)
    dec, enc = nn.Linear(2, 5), nn.Linear(5, 2)

    def model(x):
        pyro.module("dec", dec)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("obs", dist.Multinomial(20, torch.softmax(dec(z), dim=1)), obs=x)

    def guide(x):
        pyro.module("enc", enc)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(enc(x) / 20, 1.0).to_event(1))

    weights = torch.tensor([0.5, 0.2, 0.1, 0.1, 0.1])
    return model, guide, torch.distributions.Multinomial(20, weights).sample((16,))


def test_a_softmax_over_dim_1_gets_pyros_own_elbo():
    model, guide, x = counts()
    assert layout_of(model, guide, {"x": x}).particles == "rows"
    bound = pv.evaluate.elbo(model, guide, x, num_samples=600).mean()
    loss = Trace_ELBO(num_particles=600).loss(model, guide, x) / len(x)
    torch.testing.assert_close(float(bound), -loss, atol=0.05, rtol=0)
    assert bound == pytest.approx(-12.67, abs=0.05)


def joined(enumerate):
    """`torch.cat([z, y], -1)` in the decoder: y cannot be enumerated in parallel."""
    torch.manual_seed(0)
    decoder, encoder = nn.Linear(2 + K, D), nn.Linear(D + K, 2)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            y = pyro.sample("y", dist.OneHotCategorical(torch.ones(len(x), K) / K))
            logits = decoder(torch.cat([z, y], -1))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            probabilities = torch.softmax(x[:, :K], -1)
            y = pyro.sample(
                "y", dist.OneHotCategorical(probabilities), infer={"enumerate": enumerate}
            )
            pyro.sample("z", dist.Normal(encoder(torch.cat([x, y], -1)), 1.0).to_event(1))

    return model, guide


def test_parallel_enumeration_that_does_not_broadcast_is_refused_with_its_site():
    with pytest.raises(pv.UserError, match="'y' is enumerated in parallel, but the pair does not"):
        pv.check_pair(*joined("parallel"), binary())


@pytest.mark.parametrize("enumerate", ["sequential", None])
def test_values_that_cannot_be_enumerated_in_parallel_are_summed_one_by_one(enumerate):
    """Log-likelihood and ELBO are those of the same pair, written so that it broadcasts."""
    model, guide = joined(enumerate)
    x = binary()
    assert layout_of(model, guide, {"x": x}).discrete == "stacked"
    decoder, encoder = (p.__closure__ for p in (model, guide))
    (decoder,) = [c.cell_contents for c in decoder if isinstance(c.cell_contents, nn.Module)]
    (encoder,) = [c.cell_contents for c in encoder if isinstance(c.cell_contents, nn.Module)]

    def join(a, y):
        shape = torch.broadcast_shapes(a.shape[:-1], y.shape[:-1])
        return torch.cat([a.expand(*shape, -1), y.expand(*shape, -1)], -1)

    def wide_model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            y = pyro.sample("y", dist.OneHotCategorical(torch.ones(K) / K))
            logits = decoder(join(z, y))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def wide_guide(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample(
                "y",
                dist.OneHotCategorical(torch.softmax(x[..., :K], -1)),
                infer={"enumerate": "parallel"},
            )
            pyro.sample("z", dist.Normal(encoder(join(x, y)), 1.0).to_event(1))

    assert layout_of(wide_model, wide_guide, {"x": x}).discrete == "parallel"
    for function, draws in ((pv.evaluate.elbo, 3000), (pv.evaluate.log_likelihood, 3000)):
        actual, expected = (
            function(*pair, x, num_samples=draws)
            for pair in ((model, guide), (wide_model, wide_guide))
        )
        torch.testing.assert_close(actual, expected, atol=0.15, rtol=0)
        torch.testing.assert_close(actual.mean(), expected.mean(), atol=0.03, rtol=0)
    actual, expected = (
        pv.evaluate.responsibilities(*pair, x)
        for pair in ((model, guide), (wide_model, wide_guide))
    )
    torch.testing.assert_close(actual, expected)


def test_a_latent_drawn_before_the_values_are_stacked_is_drawn_once():
    """y after z: the probabilities of y sum to one at each draw of z."""
    decoder = nn.Linear(1 + K, D)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            y = pyro.sample("y", dist.OneHotCategorical(torch.ones(len(x), K) / K))
            logits = decoder(torch.cat([z[:, None], y], 1))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.mean(1), 1.0))
            logits = torch.stack([z, 2 * z, -z], 1)
            pyro.sample("y", dist.OneHotCategorical(logits=logits))

    probabilities = pv.evaluate.responsibilities(model, guide, binary(), num_samples=7)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(20))
    assert probabilities.std(1).min() > 0.01


def test_rows_that_depend_on_each_other_are_never_run_apart():
    """A program that subtracts the batch's mean gets the ELBO of its whole batch."""
    weight = torch.linspace(-1, 1, D)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal((z - z.mean())[:, None] * weight, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x - x.mean(0)) @ weight / 5, 0.5))

    x = binary()
    layout = layout_of(model, guide, {"x": x})
    assert (layout.particles, layout.divisible, layout.fixed) == ("loop", False, False)
    bound = pv.evaluate.elbo(model, guide, x, num_samples=300).mean()
    with torch.no_grad():
        loss = Trace_ELBO(num_particles=300).loss(model, guide, x) / len(x)
    assert float(bound) == pytest.approx(-loss, abs=0.1)


def test_a_program_that_was_changed_is_tried_again_by_check_pair():
    scale = {"dim": 1}

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), D), 1.0).to_event(1))
            loc = torch.softmax(z, scale["dim"])
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))

    x = binary()
    assert layout_of(model, guide, {"x": x}).particles == "rows"
    scale["dim"] = -1
    assert layout_of(model, guide, {"x": x}).particles == "rows"
    pv.check_pair(model, guide, x)
    assert layout_of(model, guide, {"x": x}).particles == "plate"
    forget_layout(model)


def test_a_layer_of_zeros_hides_no_program_that_counts_dimensions():
    """`normalize` takes dimension 1: the particles of a plate would be what it normalizes."""
    torch.manual_seed(0)
    first, last, encoder = (torch.nn.Linear(*s) for s in ((2, 16), (16, 5), (5, 2)))
    torch.nn.init.zeros_(last.weight)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            hidden = torch.nn.functional.normalize(first(z))
            pyro.sample("x", dist.Normal(last(hidden), 0.5).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x), 0.5).to_event(1))

    x = torch.randn(50, 5)
    assert layout_of(model, guide, {"x": x}).particles == "rows"
    assert not last.weight.any()
    with torch.no_grad():
        last.weight.normal_()
    z = encoder(x) + 0.5 * torch.randn(5000, 50, 2)
    hidden = torch.nn.functional.normalize(first(z), dim=-1)
    terms = (
        dist.Normal(last(hidden), 0.5).log_prob(x),
        dist.Normal(0.0, 1.0).log_prob(z),
        -dist.Normal(encoder(x), 0.5).log_prob(z),
    )
    by_hand = sum(t.sum(-1) for t in terms).mean().item()
    elbo = pv.evaluate.elbo(model, guide, x, num_samples=2000).mean().item()
    assert elbo == pytest.approx(by_hand, abs=0.1)


@pytest.mark.parametrize("num", [3, 4, 8])
def test_a_guide_with_a_parameter_per_row_is_run_on_all_rows_however_few(num):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = torch.arange(num).float()
    guide = pyro.infer.autoguide.AutoNormal(model)
    guide(x)
    assert not layout_of(model, guide, {"x": x}).divisible
    with torch.no_grad():
        guide.locs.z.copy_(x)
    torch.testing.assert_close(pv.evaluate.encode(model, guide, x)["z"], x)
