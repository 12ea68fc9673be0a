"""Data that are too small for the scales of a normal likelihood: `fit` warns."""

import math
import warnings

import pytest
import torch

import pyro_vae as pv
from pyro_vae.conditionals import MLP, Normal, NormalLikelihood
from pyro_vae.evaluate.scale_bounds import scale_excess, warn_at_scale_bounds

NET = MLP((4,))


def trained(x, likelihood):
    torch.manual_seed(0)
    model = pv.models.VAE((3,), 1, likelihood, NET)
    guide = pv.guides.Guide(model, network=NET)
    pv.fit(model, guide, x, epochs=1, batch_size=40, compile=False, progress=False)
    return model, guide


@pytest.mark.parametrize("likelihood", ["normal", Normal()], ids=["one scale", "a scale each"])
def test_fit_warns_once_in_one_line_on_data_of_sd_1e_5(likelihood):
    torch.manual_seed(1)
    x = 1e-5 * torch.randn(40, 3)
    with pytest.warns(UserWarning) as record:
        trained(x, likelihood)
    (text,) = [str(w.message) for w in record if "normal likelihood" in str(w.message)]
    assert "cannot be less than 9.1e-04" in text and "at 3 of 3 values of x" in text
    assert "e-05): train on pv.data.standardize(data)" in text and "\n" not in text
    assert callable(pv.data.standardize)  # the name that the message gives


@pytest.mark.parametrize("sd, words", [(1e-5, "less than 9.1e-04"), (1e5, "above 1.1e+03")])
@pytest.mark.parametrize("likelihood, name", [("normal", "normal"), ("student-t", "Student's t")])
def test_both_bounds_of_both_likelihoods_are_warned_of(sd, words, likelihood, name):
    x = sd * torch.randn(40, 3, generator=torch.Generator().manual_seed(1))
    with pytest.warns(UserWarning) as record:
        trained(x, likelihood)
    (text,) = [str(w.message) for w in record if "likelihood cannot be" in str(w.message)]
    assert f"the scale of a {name} likelihood cannot be {words}" in text


@pytest.mark.parametrize(
    "x, likelihood",
    [
        (torch.randn(40, 3, generator=torch.Generator().manual_seed(1)), "normal"),
        (1e-5 * torch.randn(40, 3), NormalLikelihood(1e-5)),  # fixed: no bound
        (torch.full((40, 3), 0.5), "normal"),  # constant: no scale is too small for it
        ((torch.randn(40, 3) > 0).float(), "bernoulli"),
    ],
    ids=["scale of 1", "fixed scale", "constant", "not normal"],
)
def test_fit_does_not_warn_of_other_data(x, likelihood):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained(x, likelihood)


def test_a_fitted_scale_at_its_bound_is_warned_of_where_the_data_are_large():
    """Data that a decoder explains but for 1e-6: the residual's scale is what the bound limits."""
    x = torch.randn(40, 1).expand(40, 3).clone()
    model, guide = trained(x, "normal")
    with torch.no_grad():
        model.p_x.unconditional_parameters["log_scale"].fill_(-30.0)
    with pytest.warns(UserWarning, match="at 3 of 3 values of x"):
        warn_at_scale_bounds(model, guide, {"x": x})
    with torch.no_grad():
        model.p_x.unconditional_parameters["log_scale"].fill_(math.log(0.1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_at_scale_bounds(model, guide, {"x": x})


def test_the_check_leaves_torchs_stream_as_it_was():
    x = torch.randn(40, 3)
    pair = trained(x, "normal")
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    warn_at_scale_bounds(*pair, {"x": x})
    assert torch.equal(torch.rand(1), expected)


def warnings_of(model, guide, x):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_at_scale_bounds(model, guide, {"x": x})
    return [str(w.message) for w in caught]


def test_a_posterior_and_a_component_at_the_bound_are_named_by_latent_unit_and_component():
    torch.manual_seed(0)
    model = pv.models.MixtureVAE((3,), 4, 2, "normal", NET)
    guide = pv.guides.Guide(model, network=NET)
    x = torch.randn(40, 3)
    assert warnings_of(model, guide, x) == []
    with torch.no_grad():
        guide.factors["z"].head.bias[3] = -100.0  # the log-scale of unit 1
        model.p_z.head.maps["y"].weight[2, 3] = -100.0  # that of unit 0 for component 3
    posterior, prior = warnings_of(model, guide, x)
    assert "the posterior scale of 'z' is at its lower bound 9.1e-04 in units 1:" in posterior
    assert "the prior scale of 'z' of components 3 is at its lower bound" in prior
    assert "in units 0:" in prior and "\n" not in posterior + prior


@pytest.mark.parametrize("per_value", [False, True])
def test_the_excess_of_a_scale_is_its_ratio_to_the_residuals(per_value):
    """Of a decoder that returns 0 for every z, x itself is the residual."""
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 2.0, 3])
    family = pv.conditionals.NormalLikelihood(scale=2.5, learned=True, per_value=per_value)
    model = pv.models.VAE((3,), 2, family, network=MLP((4,)))
    for parameter in model.p_x.head.parameters():
        torch.nn.init.zeros_(parameter)
    excess = scale_excess(model, pv.guides.Guide(model, network=MLP((4,))), {"x": x})
    squares = x.square().mean(0) if per_value else x.square().mean()
    assert excess == {"log_scale": pytest.approx(float((2.5 / squares.sqrt()).max()), rel=1e-4)}
    fixed = pv.models.VAE((3,), 2, pv.conditionals.NormalLikelihood(2.5), network=MLP((4,)))
    assert scale_excess(fixed, pv.guides.Guide(fixed, network=MLP((4,))), {"x": x}) == {}


def test_a_scale_that_is_still_being_learned_is_advised_of():
    torch.manual_seed(0)
    x = torch.randn(100, 1) @ torch.ones(1, 4) + 0.1 * torch.randn(100, 4)

    def advice(epochs):
        model = pv.models.VAE(
            (4,), 1, pv.conditionals.NormalLikelihood(1.0, learned=True), MLP((8,))
        )
        guide = pv.guides.Guide(model, network=MLP((8,)))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            pv.fit(model, guide, x, epochs=epochs, lr=1e-2, compile=False, progress=False)
        return [str(w.message) for w in caught if "times the residuals" in str(w.message)]

    (line,) = advice(100)
    assert "train longer (epochs=, --epochs)" in line
    assert advice(600) == []
