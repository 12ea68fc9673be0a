"""A decoder as arrays gives the mean of p(x | parents), or there are no arrays."""

import pytest
import torch

import pyro_vae as pv
from pyro_vae.conditionals import MLP, Conv
from pyro_vae.generate.decoder_arrays import decoder_arrays

LIKELIHOODS = (
    "student-t",
    "bernoulli", "gray-bernoulli", "binomial", "continuous-bernoulli", "normal", "poisson",
    "negative-binomial",
)  # fmt: skip


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_the_arrays_give_the_mean_of_every_such_likelihood(likelihood):
    model = pv.models.VAE((5,), 3, likelihood, MLP((7, 4)))
    z = 3 * torch.randn(20, 3)
    assert torch.allclose(decoder_arrays(model)(z), model.p_x(z=z).mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("activation", ["relu", "tanh", "softplus", "elu", "silu"])
def test_the_arrays_have_the_activation_and_all_parents(activation):
    model = pv.models.M2((5,), 4, 3, network=MLP((7, 6), activation))
    arrays, y, z = decoder_arrays(model), torch.eye(4)[:3], torch.randn(3, 3)
    values = {"y": y, "z": z}
    inputs = torch.cat([values[name] for name in arrays.parents], 1)
    assert torch.allclose(arrays(inputs), model.p_x(y=y, z=z).mean, atol=1e-6)


def test_a_decoder_without_hidden_layers_is_one_layer():
    model = pv.models.VAE((5,), 3, "normal", MLP(()))
    z = torch.randn(4, 3)
    assert len(decoder_arrays(model).layers) == 1
    assert torch.allclose(decoder_arrays(model)(z), model.p_x(z=z).mean, atol=1e-6)


def test_other_decoders_have_no_arrays():
    assert decoder_arrays(pv.models.VAE((1, 8, 8), 2, network=Conv((4, 8), (16,)))) is None
    assert decoder_arrays(pv.models.VAE((5,), 2, "discretized-logistic", MLP((4,)))) is None
    assert decoder_arrays(lambda x: None) is None


def test_a_decoder_that_computes_something_else_has_no_arrays():
    """A subclass has the same layers, and another mean."""

    class Halved(pv.conditionals.NormalLikelihood):
        def __call__(self, shape, loc, log_scale=None):
            return super().__call__(shape, loc / 2, log_scale)

    assert decoder_arrays(pv.models.VAE((5,), 2, Halved(), MLP((4,)))) is None
