"""Latents that are not on all reals, and discrete latents that no `config_enumerate` names."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO, config_enumerate

import pyro_vae as pv
from pyro_vae.conditionals import MLP

N, MEANS = 40, torch.tensor([[-3.0, 0.0], [0.0, 3.0], [3.0, 0.0]])


def lognormal(x=None, size=None):
    n = size if x is None else len(x)
    with pyro.plate("data", n):
        rate = pyro.sample("rate", dist.LogNormal(torch.zeros(n, 2), 1.0).to_event(1))
        return pyro.sample("x", dist.Exponential(rate).to_event(1), obs=x)


def lognormal_guide(x=None, size=None):
    with pyro.plate("data", len(x)):
        pyro.sample("rate", dist.LogNormal(-0.5 * torch.log(x), 0.7).to_event(1))


def dirichlet(x=None, size=None):
    n = size if x is None else len(x)
    with pyro.plate("data", n):
        p = pyro.sample("p", dist.Dirichlet(torch.ones(n, 3)))
        return pyro.sample("x", dist.Multinomial(10, p), obs=x)


def dirichlet_guide(x=None, size=None):
    with pyro.plate("data", len(x)):
        pyro.sample("p", dist.Dirichlet(1 + x))


def test_paths_stay_in_the_support():
    torch.manual_seed(0)
    x, counts = lognormal(size=6), dirichlet(size=6)
    values = pv.traverse(lognormal, lognormal_guide, x, steps=5).values
    # the mean of log z under the prior, -2.5 to 2.5 of its standard deviations around it
    torch.testing.assert_close(values.log()[:, 2], torch.zeros(2), atol=0.1, rtol=0)
    torch.testing.assert_close(values.log()[:, 4], 2.5 * torch.ones(2), atol=0.2, rtol=0)
    for path in ("linear", "spherical"):
        means = pv.interpolate(dirichlet, dirichlet_guide, counts[:3], counts[3:], path=path)
        torch.testing.assert_close(means.sum(-1), torch.full((3, 9), 10.0))
        assert (means >= 0).all()
    with pytest.raises(pv.UserError, match="units cannot be moved one at a time"):
        pv.traverse(dirichlet, dirichlet_guide, counts)


def test_a_simplex_of_three_numbers_has_two_units():
    torch.manual_seed(0)
    terms = pv.diagnostics.elbo_surgery(dirichlet, dirichlet_guide, dirichlet(size=50))["p"]
    assert (terms["active_units"], terms["units"]) == (2, 2)


@pytest.mark.parametrize("kind", ["mixture", "flow"])
def test_no_prior_on_the_reals_is_fitted_to_a_constrained_latent(kind):
    for model, guide in ((lognormal, lognormal_guide), (dirichlet, dirichlet_guide)):
        with pytest.raises(pv.UserError, match="the priors that are fitted are on the reals"):
            pv.evaluate.fit_ex_post_prior(model, guide, model(size=20), kind=kind)


@pytest.mark.parametrize(
    "prior, name",
    [
        (lambda n: dist.Gamma(torch.full((n, 2), 2.0), 1.0).to_event(1), "Gamma"),
        (lambda n: dist.Gamma(torch.full((n,), 2.0), 1.0), "Gamma"),
        (lambda n: dist.LogNormal(torch.zeros(n, 2), 1.0).to_event(1), "LogNormal"),
        (lambda n: dist.Dirichlet(torch.ones(n, 3)), "Dirichlet"),
        (lambda n: dist.Beta(torch.ones(n, 2), 1.0).to_event(1), "Beta"),
        (lambda n: dist.StudentT(3.0, torch.zeros(n, 2)).to_event(1), None),
        (lambda n: dist.MultivariateNormal(torch.zeros(n, 2), torch.eye(2)), None),
    ],
)
def test_a_guide_has_no_family_on_the_reals_for_a_constrained_latent(prior, name):
    def model(x=None, size=None):
        n = size if x is None else len(x)
        with pyro.plate("data", n):
            rate = pyro.sample("rate", prior(n)).reshape(n, -1)[:, :1]
            pyro.sample("x", dist.Normal(rate, 1.0).to_event(1), obs=x)

    if name is None:
        assert pv.guides.Guide(model, given={"rate": ["x"]}).given == {"rate": ("x",)}
        return
    with pytest.raises(pv.UserError, match=f"'rate' is {name} in the model, and the family Normal"):
        pv.guides.Guide(model, given={"rate": ["x"]})


@pytest.mark.parametrize("one_hot", [True, False])
def test_a_latent_that_the_guide_leaves_out_is_summed_without_an_annotation(one_hot):
    kind = dist.OneHotCategorical if one_hot else dist.Categorical

    def mixture(x=None, size=None):
        n = size if x is None else len(x)
        with pyro.plate("data", n):
            k = pyro.sample("group", kind(torch.tensor([0.2, 0.3, 0.5]).expand(n, 3)))
            z = pyro.sample("z", dist.Normal(k @ MEANS if one_hot else MEANS[k], 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)

    torch.manual_seed(0)
    x = mixture(size=N)
    guide = pv.guides.Guide(mixture, given={"z": ["x"]}, network=MLP((4,)))
    pyro.set_rng_seed(1)
    expected = TraceEnum_ELBO(max_plate_nesting=1).loss(config_enumerate(mixture), guide, x)
    for settings in ({}, {"beta": 1.0, "free_bits": {"z": 0.0}}):
        pyro.set_rng_seed(1)
        actual = pv.objectives.ELBO(**settings).loss(mixture, guide, x)
        assert actual == pytest.approx(expected, rel=1e-5)
    run = pv.fit(mixture, guide, x, epochs=40, lr=1e-2, progress=False)
    bound = float(pv.evaluate.elbo(mixture, guide, x, num_samples=200).mean())
    assert run.history[-1]["loss"] == pytest.approx(-bound, abs=0.5)  # 7 nats if it is sampled


def two_sites(x=None, w=None, size=None):
    n = size if x is None else len(x)
    with pyro.plate("rows", n):
        z = pyro.sample("z", dist.Normal(torch.zeros(n, 2), 1.0).to_event(1))
        pyro.sample("w", dist.Normal(z, 1.0).to_event(1), obs=w)
        return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def posterior_of_two_sites(x=None, w=None, size=None):
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal((x + w) / 3, 3**-0.5).to_event(1))


def test_all_data_of_the_latents_are_simulated():
    """The exact posterior is calibrated, and its bounds meet; data given by name would break both."""
    pair, data = (two_sites, posterior_of_two_sites), torch.randn(9, 2)
    example = {"x": data, "w": data}
    ranks = pv.diagnostics.simulation_based_calibration(*pair, num_data=400, example=example)["z"]
    assert (ranks["chi2_p"] > 1e-3).all() and (ranks["ks_p"] > 1e-3).all()
    bounds = pv.diagnostics.bdmc(*pair, num_data=5, num_steps=20, example=example)
    assert bounds["gap"].abs().max() < 1e-4
    for given in ({}, {"example": example}):
        with pytest.raises(pv.UserError, match="the site 'w' is data of the latents"):
            pv.diagnostics.simulation_based_calibration(*pair, num_data=9, w=data, **given)


def test_names_and_shapes_that_cannot_be_used_give_one_line():
    def model_of(name):
        def model(x=None, size=None):
            n = size if x is None else len(x)
            with pyro.plate("data", n):
                z = pyro.sample(name, dist.Normal(torch.zeros(n, 2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

        return model

    for name in ("type", "keys", "forward", "decoder.z"):
        with pytest.raises(pv.UserError, match=f"a latent of a Guide cannot be called '{name}'"):
            pv.guides.Guide(model_of(name), given={name: ["x"]})
    guide = pv.guides.Guide(model_of("z"), given={"z": ["x"]})
    with pytest.raises(pv.UserError, match=r"the validation data have shape \[5, 1\]"):
        x = torch.randn(20, 2)
        pv.fit(model_of("z"), guide, x, valid=x[:5, :1], epochs=1, progress=False)

    def conditional(x=None, c=None, size=None):
        with pyro.plate("data", len(c)):
            z = pyro.sample("z", dist.Normal(c, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    with pytest.raises(pv.UserError, match="the model fails on size alone .*: example="):
        pv.guides.Guide(conditional, given={"z": ["x", "c"]})
