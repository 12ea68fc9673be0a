"""A decoder with finitely many codes is a mixture: its density against the distributions' own."""

import copy
import math

import pytest
import torch

import pyro_vae as pv
from pyro_vae.programs.interfaces import conditional_of

LIKELIHOODS = {
    "bernoulli": torch.tensor([0.0, 1.0, 1.0]),
    "binomial": torch.tensor([0.0, 0.25, 1.0]),
    "normal": torch.tensor([-1.0, 0.3, 2.0]),
    "poisson": torch.tensor([0.0, 3.0, 7.0]),
}


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_equals_the_log_probs_of_the_components(likelihood):
    model = pv.models.VAE((3,), 2, likelihood=likelihood).double()
    row = LIKELIHOODS[likelihood].double()
    x, z = torch.stack([row, row.flip(0)]), torch.randn(5, 2, dtype=torch.float64)
    log_weights = torch.randn(5, dtype=torch.float64)
    with torch.no_grad():
        each = model.p_x(z=z).log_prob(x[:, None])  # [2, 5]
    expected = (each + log_weights).logsumexp(1)
    torch.testing.assert_close(pv.evaluate.decoder_mixture(model, x, z, log_weights), expected)
    equal = each.logsumexp(1) - math.log(5)
    torch.testing.assert_close(pv.evaluate.decoder_mixture(model, x, z), equal)


@pytest.mark.parametrize("likelihood", ["bernoulli", "binomial"])
def test_of_a_row_with_missing_values_it_is_the_density_of_the_observed_ones(likelihood):
    family = pv.conditionals.IgnoreMissing(likelihood)
    model, z = pv.models.VAE((3,), 2, likelihood=family).double(), torch.randn(5, 2).double()
    complete = pv.models.VAE((3,), 2, likelihood=likelihood).double()
    complete.load_state_dict(model.state_dict())
    x = torch.tensor([[1.0, math.nan, 0.0], [0.0, 1.0, 1.0]]).double()
    with torch.no_grad():
        entries = complete.p_x(z=z).base_dist.log_prob(x[:, None].nan_to_num())  # [2, 5, 3]
    each = torch.where(x[:, None].isnan(), 0.0, entries).sum(-1)
    expected = each.logsumexp(1) - math.log(5)
    torch.testing.assert_close(pv.evaluate.decoder_mixture(model, x, z), expected)


def test_a_grid_with_prior_weights_is_the_evidence_of_a_linear_gaussian_model():
    model = pv.models.VAE((2,), 2, likelihood="normal", network=pv.conditionals.MLP(hidden=()))
    model = model.double()
    with torch.no_grad():
        fn = model.p_x(z=torch.cat([torch.zeros(1, 2), torch.eye(2)]).double()).base_dist
    bias, slopes = fn.loc[0], fn.loc[1:] - fn.loc[0]  # x = bias + z @ slopes + noise
    covariance = slopes.T @ slopes + torch.diag(fn.scale[0] ** 2)
    exact = torch.distributions.MultivariateNormal(bias, covariance)
    side = torch.linspace(-8, 8, 321, dtype=torch.float64)
    z, x = torch.cartesian_prod(side, side), torch.randn(4, 2, dtype=torch.float64)
    log_weights = model.p_z().log_prob(z) + 2 * math.log(16 / 320)
    actual = pv.evaluate.decoder_mixture(model, x, z, log_weights)
    torch.testing.assert_close(actual, exact.log_prob(x), rtol=0, atol=1e-9)


def test_a_decoder_with_a_flow_is_a_mixture_of_flows():
    model = pv.models.VAE((2,), 3, likelihood=pv.conditionals.Flow("coupling"))
    x, z = torch.randn(4, 2), torch.randn(5, 3)
    fn = model.p_x(z=z)
    each = torch.stack([fn.log_prob(row.expand(5, 2)) for row in x])  # [4, 5]
    expected = each.logsumexp(1) - math.log(5)
    torch.testing.assert_close(pv.evaluate.decoder_mixture(model, x, z), expected)


def test_what_has_no_such_density_is_refused():
    model, z = pv.models.VAE((3,), 2), torch.zeros(4, 2)
    with pytest.raises(pv.UserError, match="4 codes"):
        pv.evaluate.decoder_mixture(model, torch.ones(1, 3), z, torch.zeros(3))
    with pytest.raises(pv.UserError):  # gray values in a Bernoulli
        pv.evaluate.decoder_mixture(model, torch.full((1, 3), 0.5), z)
    with pytest.raises(pv.UserError, match="p_x"):
        pv.evaluate.decoder_mixture(pv.models.M2((3,), 4), torch.ones(1, 3), z)


def test_copied_layers_must_fit():
    conditional = pv.models.VAE((3,), 2, network=pv.conditionals.MLP(hidden=(8,))).p_x
    narrow = torch.nn.Sequential(torch.nn.Linear(2, 7), torch.nn.Linear(7, 3))
    with pytest.raises(pv.UserError, match="shapes"):
        pv.conditionals.copy_linear_layers(narrow, conditional)
    two_parents = pv.models.M2((3,), 4, network=pv.conditionals.MLP(hidden=(8,))).p_x
    with pytest.raises(pv.UserError, match="one parent"):
        pv.conditionals.copy_linear_layers(narrow, two_parents)
    residual = pv.models.VAE((3,), 2, network=pv.conditionals.ResidualMLP((8,))).p_x
    with pytest.raises(pv.UserError, match="whose network is an MLP"):
        pv.conditionals.copy_linear_layers(narrow, residual)


def test_a_graph_has_a_circle_per_variable_and_an_arrow_per_parent():
    _, ax = pv.plots.axes()
    pv.plots.graph(ax, {"y": [], "z": ["y"], "x": ["z", "y"]}, title="a mixture")
    circles = [p for p in ax.patches if type(p).__name__ == "Circle"]
    arrows = [t for t in ax.texts if getattr(t, "arrow_patch", None) is not None]
    heights = {t.get_text(): t.get_position()[1] for t in ax.texts if t.get_text()}
    assert (len(circles), len(arrows)) == (3, 3)
    assert heights["y"] > heights["z"] > heights["x"]


def test_thousands_of_pixels_lose_no_tenths_of_a_nat():
    """The terms of the product are larger than their sum: in float32 it was off by tenths of a nat."""
    torch.manual_seed(0)
    net = pv.conditionals.MLP((32,))
    model = pv.models.VAE((4096,), 2, likelihood=pv.conditionals.Binomial(255), network=net)
    with torch.no_grad():
        model.p_x.head.maps["features"].weight.mul_(10)
    z, x = torch.randn(40, 2), pv.sample(model, 4, seed=1)
    exact = copy.deepcopy(model).double()
    counts = (x.double() * 255).round()
    with torch.no_grad():
        logits = conditional_of(exact, "x")(z=z.double()).base_dist.logits
    binomial = torch.distributions.Binomial(255, logits=logits)
    log_joint = torch.stack([binomial.log_prob(n).sum(-1) for n in counts])  # [N, K]
    expected = log_joint.logsumexp(1) - math.log(40)
    actual = pv.evaluate.decoder_mixture(model, x, z).double()
    torch.testing.assert_close(actual, expected, rtol=0, atol=0.01)
