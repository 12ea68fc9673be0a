"""Wrong arguments raise one line where they are given, not later or never."""

import math

import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv
from pyro_vae.conditionals import (
    MLP,
    Binomial,
    Categorical,
    Conditional,
    ConstantCorrelationNormal,
    Conv,
    DiscretizedLogistic,
    Flow,
    LowRankNormal,
    MultivariateNormal,
    Normal,
    NormalLikelihood,
    OneHotCategorical,
    Poisson,
    RelaxedOneHotCategorical,
)
from pyro_vae.guides import Guide
from pyro_vae.models import (
    CVAE,
    GMVAE,
    M2,
    VAE,
    AuxiliaryDGM,
    CategoricalPrior,
    FlowPrior,
    HierarchicalVAE,
    MixturePrior,
    MixtureVAE,
    NNBaseline,
    StandardNormalPrior,
    VampPrior,
)

NET = MLP((4,))


def guide(**options):
    return Guide(VAE((6,), 2, network=NET), network=NET, **options)


def guide_of_classes(**options):
    return Guide(M2((6,), 3, 2, network=NET), network=NET, **options)


def a_normal(size):
    return dist.Normal(torch.zeros(size), 1.0).to_event(1)


NO_PRIOR = "prior must be a module whose forward.. returns the distribution of"
NO_FAMILY = r"a family is an object such as Normal\(\), not"
NO_NETWORK = r"network must be MLP\(...\), ResidualMLP\(...\), Conv\(...\) or a function of .*, not"
WRONG = [
    # shapes and sizes
    (lambda: VAE((0,)), r"x_shape must be integers >= 1, got \(0,\)"),
    (lambda: VAE(6), "x_shape must be a tuple of integers >= 1, such as .6,., got 6"),
    (lambda: VAE("6"), "x_shape must be a tuple"),
    (lambda: VAE((2.0, 3)), "x_shape must be integers"),
    (lambda: VAE((6,), True), "latent_dim must be an integer >= 1, got True"),
    (lambda: VAE((6,), (2,)), "latent_dim must be an integer"),
    (lambda: VAE((6,), 2.5), "latent_dim must be an integer"),
    (lambda: CVAE((6,), 3), "c_shape must be a tuple"),
    (lambda: CVAE((6,), (3,), latent_dim=True), "latent_dim must be an integer"),
    (lambda: NNBaseline(6, (3,)), "x_shape must be a tuple"),
    (lambda: AuxiliaryDGM(6), "x_shape must be a tuple"),
    (lambda: HierarchicalVAE((6,), (5, 2)), "latent_dim must be an integer >= 1"),
    (lambda: HierarchicalVAE((6,), 5, 0), "z2_dim must be an integer >= 1"),
    (lambda: StandardNormalPrior(-1), "size must be an integer"),
    (lambda: CategoricalPrior(2.5), "num_components must be an integer"),
    (lambda: CategoricalPrior(10**8), "100000000 components are too many"),
    (lambda: pv.models.MixtureVAE((6,), 10**8), "100000000 components are too many"),
    (lambda: pv.models.VampPrior((6,), 2, 10**8), "100000000 components are too many"),
    (lambda: Conditional(2), "shape must be a tuple"),
    (lambda: Conditional((2,), {"z": 6}), "the shape of z must be a tuple"),
    (lambda: Conditional((2,), ["z"]), "given must be {parent: shape}"),
    (lambda: MLP(500), "hidden must be a tuple of integers >= 1, .* got 500"),
    (lambda: MLP((4,), 3), "unknown activation 3"),
    (lambda: Conv(3), "channels must be a tuple"),
    (lambda: Flow(hidden=64), "hidden must be a tuple"),
    (lambda: FlowPrior(2, hidden=64), "hidden must be a tuple"),
    (lambda: LowRankNormal(True), "rank must be an integer"),
    (lambda: Binomial(0), "trials must be an integer >= 1, got 0"),
    (lambda: Categorical(1), "levels must be an integer >= 2, got 1"),
    (lambda: DiscretizedLogistic(2.5), "levels must be an integer"),
    (lambda: guide(given={"z": ["index"]}, num_data=0), "num_data must be an integer"),
    (lambda: guide(num_data=5), "num_data is the number of rows of the parent 'index'"),
    (lambda: pv.data.from_arrays(torch.ones(9, 2), likelihood="foo"), "unknown likelihood 'foo'"),
    (
        lambda: pv.data.from_arrays(torch.ones(9, 2), torch.zeros(9), num_classes=2.5),
        "num_classes must be an integer >= 1, got 2.5",
    ),
    # scales
    (lambda: NormalLikelihood(0), "scale must be positive, got 0"),
    (lambda: NormalLikelihood(math.inf), "scale must be positive"),
    (lambda: NormalLikelihood(1e-5, learned=True), r"a learned scale lies .* pv.data.standard"),
    (lambda: RelaxedOneHotCategorical(0), "temperature must be positive, got 0"),
    (lambda: guide(temperature=0), "temperature must be positive, got 0"),
    (lambda: guide(temperature=math.nan), "temperature must be positive, got nan"),
    (lambda: guide(input_scaling={"x": (0.5, 0)}), "the scale of 'x' .* must be positive"),
    (
        lambda: guide(input_scaling={"x": (0.5, torch.tensor([1.0] * 5 + [0.0]))}),
        "the scale of 'x' .* must be positive; use 1 for values that are constant",
    ),
    (lambda: guide(input_scaling={"x": (math.nan, 1)}), "the mean of 'x' .* is not finite"),
    (lambda: guide(input_scaling={"x": (0, torch.ones(7))}), r"has shape \[7\], 'x' \[6\]"),
    (lambda: guide(input_scaling={"x": 0.5}), r"takes \(mean, scale\) for 'x', not 0.5"),
    (lambda: guide(input_scaling=0.5), "input_scaling must be a dict"),
    (lambda: FlowPrior(2, scale=torch.zeros(2)), "scale of a flow prior must be positive"),
    # priors
    (lambda: VAE((6,), prior=3), f"{NO_PRIOR} z, such as .* not int"),
    (lambda: GMVAE((6,), prior="vamp"), f"{NO_PRIOR} w, such as .* not str"),
    (lambda: VAE((6,), 2, prior=a_normal(2)), f"{NO_PRIOR} z, .* not Independent"),
    (lambda: VAE((6,), 2, prior=torch.nn.Linear(2, 2)), f"{NO_PRIOR} z; Linear does not"),
    (
        lambda: M2((6,), 3, 2, prior=StandardNormalPrior(3)),
        r"z has shape \[2\], the prior's .* \[3\]",
    ),
    (
        lambda: CVAE((6,), (3,), conditional_prior=False, prior=torch.nn.Flatten()),
        f"{NO_PRIOR} z; Flatten does not",
    ),
    (lambda: HierarchicalVAE((6,), 3, 2, prior=StandardNormalPrior(3)), r"z2 has shape \[2\]"),
    (lambda: VampPrior(6, 2), "the shape of x must be a tuple"),
    (lambda: MixturePrior(2, family="full"), NO_FAMILY),
    # families
    (lambda: guide(family="full"), r"family must be a dict such as .* not 'full'"),
    (lambda: guide(family=Normal()), "family must be a dict"),
    (lambda: guide(family={"z": "full"}), NO_FAMILY),
    (lambda: guide(family={"z": Normal}), NO_FAMILY),
    (lambda: MixtureVAE((6,), component="full"), NO_FAMILY),
    (lambda: guide_of_classes(family={"y": Normal()}), "'y' is discrete: its family must be too"),
    (
        lambda: guide_of_classes(family={"y": RelaxedOneHotCategorical()}),
        "'y' is discrete: its family must be too",
    ),
    (
        lambda: guide_of_classes(family={"z": OneHotCategorical()}),
        "'z' is continuous: its family must be too",
    ),
    (lambda: guide(family={"z": Poisson()}), "'z' is continuous: its family must be too"),
    (
        lambda: Conditional((1, 4), {"z": (2,)}, MultivariateNormal()),
        r"a distribution of vectors, not of shape \[1, 4\]",
    ),
    (
        lambda: Conditional((1, 4), {"z": (2,)}, ConstantCorrelationNormal()),
        r"a distribution of vectors, not of shape \[1, 4\]",
    ),
    (
        lambda: guide(discrete="relaxed"),
        "discrete='relaxed' needs a discrete latent in the guide, and this guide has none",
    ),
    # objectives
    (lambda: pv.objectives.ELBO(warmup_start=0.5), "warmup_start=0.5 has no effect without warmup"),
    (
        lambda: pv.objectives.STL(warmup={"z": 0}, warmup_start=1.0),
        "warmup_start=1.0 has no effect",
    ),
    # sizes that torch's integers do not hold
    (lambda: VAE((6,), 10**20), "latent_dim is too large: 100000000000000000000"),
    (lambda: MLP((10**20,)), "hidden is too large"),
    # networks
    (lambda: VAE((6,), network="mlp"), f"{NO_NETWORK} 'mlp'"),
    (lambda: VAE((6,), network=MLP), NO_NETWORK),
    (lambda: guide() and Guide(VAE((6,)), network="mlp"), f"{NO_NETWORK} 'mlp'"),
    # names
    (lambda: guide(given=["z"]), r"given must be a dict such as {'z': \['x'\]}, not \['z'\]"),
    (lambda: guide(given={"z": "x"}), r"parents of 'z' must be a list of names, .* not 'x'"),
    (lambda: guide(given={"z": 3}), "parents of 'z' must be a list of names"),
    (lambda: CVAE((6,), (3,), decoder_parents="zc"), "decoder_parents must be a list of names"),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_a_wrong_argument_raises_one_line_where_it_is_given(number):
    make, message = WRONG[number]
    with pytest.raises(pv.UserError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_right_arguments_of_unusual_kinds_are_taken():
    """Lists for tuples, tensors as scalings, flow and mixture priors, a discrete family for y."""
    assert MLP([4]) == MLP((4,)) and hash(MLP([4])) == hash(MLP((4,)))
    VAE([6], 2, network=NET, prior=FlowPrior(2, transforms=1, hidden=[4]))
    VAE(torch.Size([6]), 2, network=NET, prior=MixturePrior(2, 3))
    guide(input_scaling={"x": (torch.zeros(6), torch.ones(6))}, given={"z": ("x",)})
    guide(input_scaling={"x": [0.5, 2]})
    normals = (Normal(), LowRankNormal(1), MultivariateNormal(), ConstantCorrelationNormal())
    for family in (*normals, Flow("maf", 1, (4,))):
        guide(family={"z": family})
    guide_of_classes(family={"y": OneHotCategorical()}, discrete="relaxed", temperature=1)


def test_a_prior_is_looked_at_without_a_draw_or_a_trace():
    """A prior's check takes nothing from torch's stream, and leaves its mode."""
    prior = MixturePrior(2, 3)
    torch.manual_seed(0)
    VAE((6,), 2, network=NET, prior=prior)
    with_prior = torch.rand(1)
    torch.manual_seed(0)
    VAE((6,), 2, network=NET)
    assert torch.equal(with_prior, torch.rand(1)) and prior.training
