"""Components that have no data, or do not differ: named, with the remedy."""

import math
import warnings

import pytest
import torch

import pyro_vae as pv
from pyro_vae.methods.advice import Advice, check_use
from pyro_vae.train.divergence import describe_divergence
from pyro_vae.train.inputs import Inputs

NET = pv.conditionals.MLP((8,))


def test_dead_and_merged_components_by_their_definition():
    p = torch.zeros(300, 5)
    p[:100, 0] = 1
    p[100:200, 1], p[100:200, 3] = 0.7, 0.3  # no data point tells 1 from 3
    p[200:, 2] = 1
    assert pv.evaluate.dead_components(p) == (4,)
    assert pv.evaluate.merged_components(p) == ((1, 3),)


@pytest.mark.parametrize("error, merged", [(0.45, True), (0.05, False)])
def test_the_threshold_is_the_information_of_a_noisy_channel(error, merged):
    """Of two components between which this fraction of points is assigned wrongly: ln 2 - H(error) nats."""
    p = torch.tensor([[1 - error, error], [error, 1 - error]]).repeat(50, 1)
    information = math.log(2) + error * math.log(error) + (1 - error) * math.log(1 - error)
    for threshold in (1.01 * information, 0.99 * information):
        pairs = pv.evaluate.merged_components(p, threshold=threshold)
        assert bool(pairs) == (threshold > information)
    assert bool(pv.evaluate.merged_components(p)) == merged


def mixture(num_components, means):
    """A pair of two-dimensional clusters at `means`, and its data, 200 points per cluster."""
    torch.manual_seed(0)
    centers = torch.tensor([[-6.0, 0.0], [6.0, 0.0]])
    x = (centers.unsqueeze(1) + torch.randn(2, 200, 2)).flatten(0, 1)
    likelihood = pv.conditionals.NormalLikelihood(scale=0.1, learned=False)
    model = pv.models.MixtureVAE((2,), num_components, 2, likelihood, pv.conditionals.MLP(()))
    guide = pv.guides.Guide(model, network=pv.conditionals.MLP(()))
    with torch.no_grad():
        model.p_x.head.maps["z"].weight.copy_(torch.eye(2))
        model.p_x.head.bias.zero_()
        pv.models.components.set_components(
            model, [1 / num_components] * num_components, torch.tensor(means).double(),
            torch.eye(2).double().expand(num_components, 2, 2),
        )  # fmt: skip
        guide.factors["z"].head.maps["x"].weight.zero_()[:2].copy_(torch.eye(2))
        guide.factors["z"].head.bias.zero_()[2:] = math.log(0.1)
    return model, guide, pv.data.Data(pv.data.Split(x), pv.data.Split(x))


@pytest.mark.parametrize(
    "means, message",
    [
        ([[-6.0, 0.0], [6.0, 0.0]], None),
        ([[-6.0, 0.0], [6.0, 0.0], [60.0, 60.0]], "components 2 of 3 have no data"),
        ([[-6.0, 0.0], [6.0, 0.0], [6.0, 0.0]], "pairs of components do not differ: 1 and 2"),
    ],
)
def test_components_that_are_not_of_use_are_named_with_a_remedy(means, message):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_use(*mixture(len(means), means))
    messages = [str(w.message) for w in caught if issubclass(w.category, Advice)]
    assert len(messages) == (message is not None)
    for text in messages:
        assert message in text and "fewer components (num_components=)" in text and "\n" not in text


def test_a_value_that_is_not_finite_for_one_component_is_named_with_it():
    model, guide, data = mixture(3, [[-6.0, 0.0], [6.0, 0.0], [0.0, 0.0]])
    inputs = Inputs(model, guide, data, pv.objectives.ELBO(), None, 64, torch.device("cpu"), 0)
    _, batch = inputs.first()
    with torch.no_grad():
        model.p_z.head.maps["y"].weight[0, 2] = 1e30  # the square of a distance is no float
    where, _ = describe_divergence(model, guide, inputs, batch)
    assert where == "at site 'z' for y = 2"
    with torch.no_grad():
        guide.factors["z"].head.bias[0] = math.nan
    where, _ = describe_divergence(model, guide, inputs, batch)
    assert where == "at site 'z'"
