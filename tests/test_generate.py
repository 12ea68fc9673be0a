"""Generation: each source is the distribution that it says, each path goes where it says, completions are exact."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from problems import LINEAR, linear_marginal, set_linear_posterior
from sampling import covering

import pyro_vae as pv
from pyro_vae.conditionals import MLP, MultivariateNormal, NormalLikelihood
from pyro_vae.programs.program import Program

NET = MLP(hidden=(5,), activation="tanh")
D, LATENT, SCALE, K = 5, 2, 0.7, 3


# ------------------------------------------------------------- the linear-Gaussian VAE


@pytest.fixture
def linear():
    """`(model, guide with the exact posterior)`: x = W z + b + noise, z ~ N(0, I)."""
    torch.manual_seed(1)
    model = pv.models.VAE((D,), LATENT, NormalLikelihood(scale=SCALE), LINEAR).double()
    family = {"z": MultivariateNormal()}
    guide = pv.guides.Guide(model, family=family, network=LINEAR).double()
    with torch.no_grad():
        model.p_x.head.maps["z"].weight.mul_(3)
    set_linear_posterior(guide, model, SCALE)
    return model, guide


def spoil(guide):
    """The posterior's mean off, its scales half as large again."""
    with torch.no_grad():
        guide.factors["z"].head.bias[:LATENT] += 0.5
        guide.factors["z"].head.bias[LATENT : 2 * LATENT] += 0.4
    return guide


MASK = torch.tensor([True, False, True, True, False])


def missing_given_observed(model, x):
    """Mean `[2]` and covariance of the missing part of one data point: Gaussian conditioning."""
    marginal = linear_marginal(model, SCALE)
    mean, c = marginal.loc, marginal.covariance_matrix
    o, m = MASK, ~MASK
    gain = c[m][:, o] @ torch.linalg.inv(c[o][:, o])
    return mean[m] + gain @ (x[o] - mean[o]), c[m][:, m] - gain @ c[o][:, m]


def distances(draws, mean, covariance):
    """How many standard errors draws `[S, D]` are off, in the mean and in the covariance."""
    n, sd = len(draws), covariance.diagonal().sqrt()
    off_mean = (draws.mean(0) - mean).abs() / (sd / math.sqrt(n))
    # the standard error of a Gaussian's sample covariance (Isserlis)
    error = ((covariance**2 + torch.outer(sd**2, sd**2)) / n).sqrt()
    off_covariance = (draws.T.cov() - covariance).abs() / error
    return off_mean.max().item(), off_covariance.max().item()


@pytest.fixture
def x(linear):
    torch.manual_seed(2)
    return linear[0](size=2).detach() + 1


@pytest.mark.parametrize("wrong", [False, True])
def test_completions_of_a_linear_gaussian_vae_are_its_conditional_gaussian(linear, x, wrong):
    model, guide = linear
    guide = spoil(guide) if wrong else guide
    hidden = torch.where(MASK, x, torch.nan)
    done = pv.impute(model, guide, hidden, MASK, num_samples=2000, steps=100)
    assert done.x.shape == (2000, 2, D)
    assert torch.equal(done.x[..., MASK], x[:, MASK].expand(2000, 2, 3))
    for n in range(2):
        off_mean, off_covariance = distances(
            done.x[:, n][:, ~MASK], *missing_given_observed(model, x[n])
        )
        assert off_mean < 4 and off_covariance < 4
    if wrong:
        assert (done.acceptance > 0.1).all() and (done.acceptance < 0.8).all()
    else:  # the exact posterior as proposal: every weight is p(x)
        assert done.acceptance.min() > 0.9999


@pytest.mark.parametrize("wrong", [False, True])
def test_pseudo_gibbs_is_right_with_the_exact_posterior_alone(linear, x, wrong):
    model, guide = linear
    guide = spoil(guide) if wrong else guide
    done = pv.impute(model, guide, x, MASK, 4000, steps=60, method="pseudo-gibbs")
    off_mean, _ = distances(done.x[:, 0][:, ~MASK], *missing_given_observed(model, x[0]))
    assert (off_mean > 8) if wrong else (off_mean < 4)
    assert (done.acceptance == 1).all()


# --------------------------------------------------------- a mixture, by quadrature

B = 4  # binary values


class Both(Program):
    """y ~ Categorical; z | y ~ Normal; x | y, z ~ Bernoulli: x depends on the summed y in addition to z."""

    default_guide = {"z": ["x"]}

    def __init__(self):
        super().__init__()
        self.p_y = pv.models.priors.CategoricalPrior(K)
        self.p_z = pv.conditionals.Conditional((1,), {"y": (K,)}, network=LINEAR)
        self.p_x = pv.models.vae.decoder((B,), {"z": (1,), "y": (K,)}, "bernoulli", LINEAR)

    def forward(self, x=None, y=None, size=None):
        with pyro.plate("data", size if x is None else len(x)):
            y = pyro.sample("y", self.p_y(), obs=y, infer={"enumerate": "parallel"})
            z = pyro.sample("z", self.p_z(y=y))
            return pyro.sample("x", self.p_x(z=z, y=y), obs=x)


def mixture(kind):
    torch.manual_seed(3)
    shu = {"y": ["x"], "z": ["x", "y"]}
    if kind == "x given y too":
        model = Both()
    else:
        model = pv.models.MixtureVAE((B,), K, 1, network=LINEAR)
    given = shu if kind == "y in the guide" else None
    guide = pv.guides.Guide(model, given, network=NET)
    with torch.no_grad():
        for p in (*model.p_x.parameters(), *guide.factors.parameters()):
            p.mul_(3)
        # its scale 2.7 throughout: wrong, and wide enough that a test's chains forget their start
        guide.factors["z"].head.maps["features"].weight[1] = 0
        guide.factors["z"].head.bias[1] = 1
    return model.double(), guide.double()


def patterns_given_observed(model, x, mask):
    """Exact probabilities `[2^M]` of the missing bits: z on a grid, y summed."""
    z = torch.linspace(-12, 12, 4001, dtype=torch.float64).reshape(-1, 1, 1)
    y = torch.eye(K, dtype=torch.float64)
    weight = model.p_y().probs * model.p_z(y=y).log_prob(z).exp()  # [G, K]
    parents = {"z": z, "y": y} if "y" in model.p_x.given else {"z": z}
    with torch.no_grad():
        probs = model.p_x(**parents).base_dist.probs.expand(len(z), K, B)
    distribution = dist.Bernoulli(probs)
    bits = torch.cartesian_prod(*[torch.tensor([0.0, 1.0]).double()] * int((~mask).sum()))
    total = []
    for b in bits:
        whole = x.clone()
        whole[~mask] = b
        total.append((weight * distribution.log_prob(whole).sum(-1).exp()).sum())
    total = torch.stack(total)
    return total / total.sum()


@pytest.mark.parametrize("kind", covering(["y summed", "y in the guide", "x given y too"], every=2))
def test_completions_of_a_mixture_have_the_probabilities_that_quadrature_gives(kind):
    model, guide = mixture(kind)
    x = torch.tensor([[1.0, 0, 0, 1]], dtype=torch.float64)
    mask = torch.tensor([True, False, False, True])
    truth = patterns_given_observed(model, x[0], mask)
    done = pv.impute(model, guide, x, mask, num_samples=2000, steps=200)
    actual = torch.bincount(
        (done.x[:, 0, 1:3] @ torch.tensor([2.0, 1]).double()).long(), minlength=4
    )
    error = (truth * (1 - truth) / 2000).sqrt()
    assert truth.max() < 0.9 and done.acceptance < 0.7
    assert ((actual / 2000 - truth).abs() < 4 * error).all()


def test_completion_says_what_it_cannot_do(linear, x):
    model, guide = linear
    with pytest.raises(pv.UserError, match=r"mask must be bool of shape \[5\] or \[2, 5\]"):
        pv.impute(model, guide, x, MASK.double())
    with pytest.raises(pv.UserError, match="did you mean 'pseudo-gibbs'"):
        pv.impute(model, guide, x, MASK, method="pseudogibbs")

    class Correlated(pv.models.VAE):
        def forward(self, x=None, size=None):
            with pyro.plate("data", size if x is None else len(x)):
                z = pyro.sample("z", self.p_z())
                distribution = dist.MultivariateNormal(self.p_x(z=z).mean, torch.eye(D).to(z))
                return pyro.sample("x", distribution, obs=x)

    with pytest.raises(pv.UserError, match="MultivariateNormal, whose values depend on each other"):
        pv.impute(Correlated((D,), LATENT, network=LINEAR).double(), guide, x, MASK)


def test_a_mask_of_its_own_for_each_datum_and_work_in_chunks(linear, x, monkeypatch):
    model, guide = linear
    masks = torch.stack([MASK, ~MASK])
    monkeypatch.setattr(pv.evaluate.chunked, "MEMORY_BUDGET", 32 * 512 * 7)
    done = pv.impute(model, guide, x, masks, num_samples=5, steps=2).x
    assert torch.equal(done[:, masks], x[masks].expand(5, D))
    assert (done[:, ~masks] != x[~masks]).all()


# ----------------------------------------------------------------------------- sources


def test_given_codes_are_decoded(linear):
    model, _ = linear
    z = torch.randn(7, LATENT, dtype=torch.float64)
    w, b = model.p_x.head.maps["z"].weight, model.p_x.head.bias
    torch.testing.assert_close(pv.sample(model, z=z, mean=True), (z @ w.T + b).detach())
    assert pv.sample(model, 3, z=z[0], mean=True).shape == (3, D)
    assert torch.equal(pv.sample(model, z=z, site="z"), z)


def test_the_aggregate_posterior_of_an_exact_guide_on_its_models_data_is_the_prior(linear):
    """q(z) = E_x q(z | x) = p(z), where x ~ p(x) and q is exact; of one data point it is q(z | x)."""
    model, guide = linear
    torch.manual_seed(0)
    data = model(size=20_000).detach()
    source = pv.generate.AggregatePosterior(guide, data)
    z = pv.sample(model, 20_000, source=source, site="z", seed=0)
    assert (
        max(distances(z, torch.zeros(2).double(), torch.eye(2).double())) < 5
    )  # twice 20,000 draws
    one = pv.generate.AggregatePosterior(guide, data[:1])
    z = pv.sample(model, 20_000, source=one, site="z", seed=0)
    q = guide.factors["z"](x=data[:1])
    assert max(distances(z, q.loc[0].detach(), q.covariance_matrix[0].detach())) < 4


class Density(torch.nn.Module):
    def forward(self):
        return dist.Normal(torch.tensor([3.0, -1]).double(), 0.1).to_event(1)


@pytest.mark.parametrize("density", [Density(), Density()()], ids=["module", "distribution"])
def test_a_density_fitted_afterwards_takes_the_priors_place(linear, density):
    model, _ = linear
    z = pv.sample(model, 10_000, source={"z": density}, site="z", seed=0)
    mean, covariance = torch.tensor([3.0, -1]).double(), 0.01 * torch.eye(2).double()
    assert max(distances(z, mean, covariance)) < 4
    same = pv.sample(model, 4, source={"z": density}, seed=1)
    assert torch.equal(same, pv.sample(model, 4, source={"z": density}, seed=1))


def test_left_out_discrete_latents_come_from_their_exact_posterior():
    """Given x and z, y ~ p(y | x, z), where x depends on y in addition to z."""
    model, guide = mixture("x given y too")
    x = torch.tensor([[1.0, 0, 0, 1]], dtype=torch.float64).expand(40_000, B)
    drawn = pv.evaluate.sample_posterior(model, guide, x)
    z, y = drawn["z"], drawn["y"]
    eye = torch.eye(K, dtype=torch.float64)
    with torch.no_grad():
        joint = torch.stack([
            model.p_y().log_prob(k) + model.p_z(y=k).log_prob(z) + model.p_x(z=z, y=k).log_prob(x)
            for k in eye
        ], -1)  # fmt: skip
    p = joint.softmax(-1)  # [N, K]
    off = (y - p).mean(0) / ((p * (1 - p)).mean(0) / len(x)).sqrt()
    assert off.abs().max() < 4
    best = pv.evaluate.sample_posterior(model, guide, x[:1], mean=True)
    torch.testing.assert_close(best["z"], guide.factors["z"](x=x[:1]).mean.detach())


def test_most_probable_values_are_taken_with_their_own_means():
    model, guide = mixture("y in the guide")
    torch.manual_seed(0)
    x = torch.bernoulli(torch.full((50, B), 0.5).double())
    actual = pv.evaluate.sample_posterior(model, guide, x, mean=True)
    with torch.no_grad():
        y = torch.nn.functional.one_hot(guide.factors["y"](x=x).logits.argmax(-1), K).double()
        z = guide.factors["z"](x=x, y=y).mean
    assert torch.equal(actual["y"], y) and len(y.argmax(-1).unique()) > 1
    torch.testing.assert_close(actual["z"], z)


def test_values_that_a_model_does_not_accept_raise(linear):
    model, guide = linear
    for options, message in (
        ({"zz": 1.0}, "unknown latent or covariate 'zz'"),
        ({"c": 1}, "unknown latent or covariate 'c'"),
        ({"z": torch.zeros(3, 7)}, r"z must have shape \[3, 2\] or \[2\], not \[3, 7\]"),
        ({"source": 5}, "source must be"),
        ({"source": {"q": Density()}}, "unknown latent or covariate 'q'"),
        ({"z": "a"}, "z must be a number or an array of numbers, not str"),
    ):
        with pytest.raises(pv.UserError, match=message):
            pv.sample(model, 3, **options)


def test_a_class_is_one_and_not_a_share_of_several():
    torch.manual_seed(0)
    model = pv.models.M2((D,), K, LATENT, network=NET)
    rows = torch.eye(K)[torch.tensor([0, 2])]
    expected = pv.sample(model, 2, y=[0, 2], seed=0)
    assert torch.equal(pv.sample(model, 2, y=rows, seed=0), expected)
    for bad in (torch.full((2, K), 1 / K), torch.zeros(2, K), 2 * rows):
        with pytest.raises(pv.UserError, match="y has rows that are not one-hot"):
            pv.sample(model, 2, y=bad)


@pytest.mark.parametrize("likelihood, bad", [("bernoulli", 0.5), ("poisson", -1.0)])
def test_observed_values_outside_of_the_support_are_not_completed(likelihood, bad):
    """A missing value may be anything; an observed one has a probability."""
    torch.manual_seed(0)
    model = pv.models.VAE((D,), LATENT, likelihood=likelihood, network=NET)
    guide = pv.guides.Guide(model, network=NET)
    mask = torch.arange(D) > 0
    x = torch.ones(4, D)
    x[:, 0] = bad
    done = pv.generate.impute(model, guide, x, mask, num_samples=2, steps=2)
    assert torch.equal(done.x[..., 1:], torch.ones(2, 4, D - 1)) and (done.x != bad).all()
    x[3, 1] = bad
    with pytest.raises(pv.UserError, match=f"x has values outside the support .* {bad:g}"):
        pv.generate.impute(model, guide, x, mask, num_samples=2, steps=2)


class Conditioned(Program):
    """z ~ N(0, I); x | z, c ~ Normal."""

    default_guide = {"z": ["x", "c"]}
    observes, covariates, class_covariates = ("x", "c"), {"c": (K,)}, ("c",)

    def __init__(self):
        super().__init__()
        self.p_z = pv.models.StandardNormalPrior(LATENT)
        self.p_x = pv.models.vae.decoder(
            (D,), {"z": (LATENT,), "c": (K,)}, NormalLikelihood(0.1), LINEAR
        )

    def forward(self, x=None, c=None, size=None):
        with pyro.plate("data", size if x is None else len(x)):
            z = pyro.sample("z", self.p_z())
            return pyro.sample("x", self.p_x(z=z, c=c), obs=x)


@pytest.mark.parametrize("kind", [pv.models.CVAE, pv.models.NNBaseline])
def test_a_covariate_of_one_number_is_no_class(kind):
    """c=0 is the number 0, as c=0.0 is; not the first class, whose one-hot vector is [1]."""
    torch.manual_seed(0)
    model = kind((D,), (1,), likelihood=NormalLikelihood(0.1), network=NET)
    for number in (0, 1, 3):
        rows = torch.full((5, 1), float(number))
        expected = pv.sample(model, 5, c=rows, seed=0)
        for c in (number, float(number), [number], torch.tensor(number), rows.long()):
            assert torch.equal(pv.sample(model, 5, c=c, seed=0), expected)
    zero, one = (pv.sample(model, 5, c=c, seed=0) for c in (0, 1))
    assert (zero != one).any()


def test_whole_numbers_are_classes_only_where_the_model_says_so():
    torch.manual_seed(0)
    parts = {"likelihood": NormalLikelihood(0.1), "network": NET}
    model = pv.models.CVAE((D,), (K,), **parts)
    for c in (1, torch.tensor([0, 2, 1, 1])):
        with pytest.raises(pv.UserError, match="c must have shape .* c_is_class=True"):
            pv.sample(model, 4, c=c)
    row = torch.tensor([0, 1, 0])  # of shape c_shape: numbers, one row for all
    expected = pv.sample(model, 3, c=row.float(), seed=0)
    assert torch.equal(pv.sample(model, 3, c=row, seed=0), expected)
    model.class_covariates = ("c",)
    with pytest.raises(pv.UserError, match="may be 3 classes or one class as a one-hot vector"):
        pv.sample(model, 3, c=row)
    assert torch.equal(pv.sample(model, 3, c=1, seed=0), expected)
    assert torch.equal(pv.sample(model, 3, c=[1, 1, 1], seed=0), expected)
    with pytest.raises(pv.UserError, match="c_is_class is for one-hot vectors"):
        pv.models.CVAE((D,), (1,), c_is_class=True)


def test_a_preset_given_labels_knows_that_its_covariate_is_a_class():
    x, y = torch.bernoulli(torch.full((40, D), 0.5)), torch.arange(40) % K
    model = pv.method("cvae", pv.data.from_arrays(x, y), condition="labels").model
    rows = torch.eye(K)[2].expand(4, K)
    assert torch.equal(pv.sample(model, 4, c=2, seed=0), pv.sample(model, 4, c=rows, seed=0))
    data = pv.data.from_arrays(x, c=torch.eye(K)[y])
    model = pv.method("cvae", data, condition="data").model
    with pytest.raises(pv.UserError, match="c_is_class=True"):
        pv.sample(model, 4, c=2)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(value):
    model = pv.models.VAE((D,), LATENT, network=NET)
    with pytest.raises(pv.UserError, match="z has NaN or infinite values"):
        pv.sample(model, 4, z=torch.full((4, LATENT), value))


def test_conditional_models_are_generated_from_with_their_covariates():
    torch.manual_seed(0)
    model = Conditioned()
    guide = pv.guides.Guide(model, network=NET)
    c = torch.eye(K)[[0, 2, 1]]
    x = pv.sample(model, 3, c=c, mean=True, seed=0)
    assert torch.equal(x, pv.sample(model, 3, c=torch.tensor([0, 2, 1]), mean=True, seed=0))
    z = pv.sample(model, 3, c=c, site="z", seed=0)
    torch.testing.assert_close(x, model.p_x(z=z, c=c).mean.detach())
    with pytest.raises(
        pv.UserError, match=r"Conditioned is conditional: pass c= of shape \[4, 3\]"
    ):
        pv.sample(model, 4)
    with pytest.raises(pv.UserError, match=r"c must lie in 0..2; found 3..3"):
        pv.sample(model, 4, c=3)
    source = pv.generate.AggregatePosterior(guide, x, c=c)  # its covariates come with it
    assert pv.sample(model, 5, source=source).shape == (5, D)
    assert pv.sample(model, 5, source=source, c=1).shape == (5, D)
    path = pv.interpolate(model, guide, x, x.flip(0), steps=4, c=c)
    ends = model.p_x(z=pv.evaluate.encode(model, guide, x, c=c)["z"], c=c).mean.detach()
    torch.testing.assert_close(path[:, 0], ends)
    assert pv.traverse(model, guide, x, steps=3, c=c).x.shape == (LATENT, 3, D)
    mask = torch.tensor([True] * 3 + [False] * 2)
    assert pv.impute(model, guide, x, mask, 2, steps=3, c=c).x.shape == (2, 3, D)


# ------------------------------------------------------------------------------- paths


@pytest.mark.parametrize("path", ["linear", "spherical"])
def test_a_path_starts_and_ends_at_the_reconstructions(linear, x, path):
    model, guide = linear
    actual = pv.interpolate(model, guide, x[:1], x[1:], steps=5, path=path)
    assert actual.shape == (1, 5, D)
    rebuilt = pv.evaluate.reconstruct(model, guide, x)
    torch.testing.assert_close(actual[0, [0, -1]], rebuilt)
    w, b = model.p_x.head.maps["z"].weight.detach(), model.p_x.head.bias.detach()
    codes = pv.evaluate.encode(model, guide, x)["z"]
    middle = torch.linalg.lstsq(w, (actual[0, 2] - b).unsqueeze(-1)).solution.squeeze(-1)
    if path == "linear":
        torch.testing.assert_close(middle, codes.mean(0))
    else:  # sin(w / 2) / sin w = 1 / (2 cos(w / 2))
        omega = torch.nn.functional.cosine_similarity(codes[0], codes[1], dim=0).arccos()
        torch.testing.assert_close(middle, codes.sum(0) / (2 * (omega / 2).cos()))


def test_paths_of_a_guide_with_a_row_for_each_data_point_end_at_the_other_data_point():
    torch.manual_seed(0)
    x = torch.randn(12, D)
    run = pv.method("vae-per-datum", pv.data.from_arrays(x), latent_dim=2, hidden=[4], epochs=1)
    run = run.fit(progress=False)
    with torch.no_grad():  # posteriors that differ
        for parameter in run.guide.parameters():
            parameter.copy_(torch.randn_like(parameter))
    sheet = run.sheet("interpolate", num=3, steps=5, split="train")
    train, index = run.data.observed_split("train").x, torch.arange(len(run.data.train))
    rebuilt = pv.evaluate.reconstruct(run.model, run.guide, train, index=index)
    paths = sheet.x.reshape(3, 5, D)
    torch.testing.assert_close(paths[:, 0], rebuilt[:3])
    torch.testing.assert_close(paths[:, -1], rebuilt[3:6])


def test_a_split_with_one_data_point_has_no_path():
    data = pv.data.from_arrays(torch.randn(12, D), valid=2, test=1)
    run = pv.method("vae", data, latent_dim=2, hidden=[4], epochs=1).fit(progress=False)
    with pytest.raises(pv.UserError, match="the split 'test' has 1 data point; a path needs two"):
        run.sheet("interpolate", split="test")
    assert len(run.sheet("interpolate", split="valid", steps=3).x) == 3


def test_spherical_paths_between_points_of_a_sphere_stay_on_it():
    from pyro_vae.generate.paths import _spherical

    torch.manual_seed(0)
    a, b = torch.nn.functional.normalize(torch.randn(2, 6, 1, 9).double(), dim=-1)
    t = torch.linspace(0, 1, 7).double()[:, None]
    arc = _spherical(a, b, t)
    torch.testing.assert_close(arc.norm(dim=-1), torch.ones(6, 7).double())
    torch.testing.assert_close(_spherical(a, a, t), a.expand(6, 7, 9))
    assert torch.isfinite(_spherical(a, -a, t)).all()


def test_a_traversal_moves_one_unit_by_the_priors_standard_deviations(linear):
    model, guide = linear
    torch.manual_seed(0)
    data = model(size=500).detach()
    actual = pv.traverse(model, guide, data, steps=5, span=2.0, start=3)
    w, b = model.p_x.head.maps["z"].weight.detach(), model.p_x.head.bias.detach()
    codes = pv.evaluate.encode(model, guide, data)["z"]
    torch.testing.assert_close(
        actual.values[:, 0], torch.full((2,), -2.0).double(), atol=0.25, rtol=0
    )
    for row, unit in enumerate(actual.units):
        z = codes[3].expand(5, LATENT).clone()
        z[:, unit] = actual.values[row]
        torch.testing.assert_close(actual.x[row], z @ w.T + b)
    assert actual.activity[0] >= actual.activity[1]
    # a posterior's share of the prior's variance: Var E[z | x] = I - posterior covariance
    q = guide.factors["z"](x=data[:1]).covariance_matrix[0].diagonal()
    torch.testing.assert_close(actual.activity, 1 - q.detach()[actual.units], atol=0.15, rtol=0)
    assert pv.traverse(model, guide, data, units=1, steps=2).units.tolist() == [actual.units[0]]
    with pytest.raises(pv.UserError, match=r"units must be numbers in 0\.\.1 of 'z'"):
        pv.traverse(model, guide, data, units=[2])


class Hierarchy(Program):
    """z2 ~ N(0, I); z1 | z2 ~ Normal; x | z1 ~ Normal."""

    default_guide = {"z1": ["x"], "z2": ["z1"]}

    def __init__(self):
        super().__init__()
        self.p_z2 = pv.models.StandardNormalPrior(2)
        self.p_z1 = pv.conditionals.Conditional((3,), {"z2": (2,)}, network=NET)
        self.p_x = pv.models.vae.decoder((D,), {"z1": (3,)}, NormalLikelihood(0.1), NET)

    def forward(self, x=None, size=None):
        with pyro.plate("data", size if x is None else len(x)):
            z2 = pyro.sample("z2", self.p_z2())
            z1 = pyro.sample("z1", self.p_z1(z2=z2))
            return pyro.sample("x", self.p_x(z1=z1), obs=x)


def test_below_a_moved_latent_the_hierarchy_follows_at_its_means():
    torch.manual_seed(0)
    model = Hierarchy().double()
    guide = pv.guides.Guide(model, network=NET).double()
    x = torch.randn(2, D).double()
    codes = pv.evaluate.encode(model, guide, x)
    with torch.no_grad():
        top = model.p_x(z1=model.p_z1(z2=codes["z2"]).mean).mean
        low = model.p_x(z1=codes["z1"]).mean
    actual = pv.interpolate(model, guide, x[:1], x[1:], steps=3)[0]  # z2, the topmost, moves
    torch.testing.assert_close(actual[[0, -1]], top)
    actual = pv.interpolate(model, guide, x[:1], x[1:], steps=3, latent="z1")[0]
    torch.testing.assert_close(actual[[0, -1]], low)
    assert pv.traverse(model, guide, x, latent="z1", steps=3).x.shape == (3, 3, D)
    with pytest.raises(pv.UserError, match="unknown continuous latent 'z3'"):
        pv.interpolate(model, guide, x[:1], x[1:], latent="z3")
    z1 = pv.sample(model, 4, z2=codes["z2"][0], site="z1", seed=0)
    assert z1.shape == (4, 3)


@pytest.mark.parametrize("kind", ["y summed", "y in the guide", "x given y too"])
def test_mixtures_are_walked_through_too(kind):
    model, guide = mixture(kind)
    x = torch.tensor([[1.0, 0, 0, 1], [0, 1, 1, 0]]).double()
    codes = pv.evaluate.sample_posterior(model, guide, x, mean=True)
    path = pv.interpolate(model, guide, x[:1], x[1:], steps=4)[0]
    parents = {k: codes[k] for k in model.p_x.given}
    torch.testing.assert_close(path[[0, -1]], model.p_x(**parents).mean.detach())
    walk = pv.traverse(model, guide, x, steps=3, span=1.0)
    assert walk.x.shape == (1, 3, B)
    prior_sd = (walk.values[:, -1] - walk.values[:, 0]) / 2
    means = pv.evaluate.encode(model, guide, x)["z"]  # over every value of y
    torch.testing.assert_close(walk.activity, means.var(0, correction=0) / prior_sd**2)


def test_the_gmvaes_w_moves_its_component():
    torch.manual_seed(0)
    model = pv.models.GMVAE((B,), K, latent_dim=2, w_dim=2, network=NET)
    guide = pv.guides.Guide(model, network=NET)
    x = torch.tensor([[1.0, 0, 0, 1], [0, 1, 1, 0]])
    codes = pv.evaluate.sample_posterior(model, guide, x, mean=True)
    with torch.no_grad():
        z = model.p_z(w=codes["w"], y=codes["y"]).mean
        ends = model.p_x(z=z).mean
    path = pv.interpolate(model, guide, x[:1], x[1:], steps=3, latent="w")[0]
    torch.testing.assert_close(path[[0, -1]], ends)


def test_a_density_as_the_source_of_samples_is_refused_in_one_line():
    model = pv.models.VAE((D,), 2)
    with pytest.raises(pv.UserError, match="such as {'z': density}, .* not StandardNormalPrior"):
        pv.sample(model, 4, source=pv.models.StandardNormalPrior(2))
