"""Conditional models: exact answers, the prior as a guide, the hybrid objective."""

import copy
import itertools
import math
import warnings

import pyro
import pytest
import torch
from commands import main
from pyro import poutine
from sampling import covering
from torch.distributions import MultivariateNormal as TorchMultivariateNormal

import pyro_vae as pv
from pyro_vae import methods
from pyro_vae.conditionals import MLP, MultivariateNormal, NormalLikelihood
from pyro_vae.guides import Guide, PriorGuide
from pyro_vae.models import CVAE, MixtureVAE, NNBaseline
from pyro_vae.objectives import ELBO, Hybrid
from pyro_vae.programs import trace_pair
from pyro_vae.report import sample_figures, summary

D, C, LATENT, SCALE, N = 4, 3, 2, 0.7, 12
CONDITIONAL = [n for n, m in methods.METHODS.items() if "c" in getattr(m.model, "observes", ())]
LINEAR, SMALL = MLP(hidden=()), MLP(hidden=(8,), activation="tanh")


# ------------------------------------------------------- linear-Gaussian, in closed form


@pytest.fixture
def linear():
    """z | c ~ N(A c + a, S), S constant; x | z, c ~ N(W z + V c + b, s^2 I); float64."""
    torch.manual_seed(1)
    model = CVAE((D,), (C,), LATENT, NormalLikelihood(scale=SCALE), LINEAR).double()
    with torch.no_grad():
        model.p_z.head.maps["c"].weight[LATENT:] = 0
    return model


@pytest.fixture
def xc(linear):
    torch.manual_seed(2)
    c = torch.randn(N, C, dtype=torch.float64)
    return linear(c=c).detach(), c


def parts(model, c):
    """W, the mean of x - W z given c, the mean and covariance of z given c."""
    w, v = (model.p_x.head.maps[n].weight.detach() for n in ("z", "c"))
    prior = model.p_z(c=c)
    covariance = torch.diag_embed(prior.variance.detach())
    return w, c @ v.T + model.p_x.head.bias.detach(), prior.mean.detach(), covariance


def evidence(model, x, c):
    """log N(x; W mu(c) + V c + b, W S W' + s^2 I)."""
    w, rest, mean, covariance = parts(model, c)
    noise = SCALE**2 * torch.eye(D, dtype=x.dtype)
    return TorchMultivariateNormal(mean @ w.T + rest, w @ covariance @ w.T + noise).log_prob(x)


def exact_guide(model):
    """q(z | x, c) = p(z | x, c): its mean linear in x and c, its covariance constant."""
    guide = Guide(model, family={"z": MultivariateNormal()}, network=LINEAR).double()
    w, b, a, s = parts(model, torch.zeros(1, C, dtype=torch.float64))
    v, prior = model.p_x.head.maps["c"].weight.detach(), torch.linalg.inv(s[0])
    p = torch.linalg.inv(prior + w.T @ w / SCALE**2)
    on_x = p @ w.T / SCALE**2
    on_c = p @ prior @ model.p_z.head.maps["c"].weight.detach()[:LATENT] - on_x @ v
    offset = (p @ prior @ a[0]) - on_x @ b[0]
    head = guide.factors["z"].head
    with torch.no_grad():
        for name, value in (("x", on_x), ("c", on_c)):
            head.maps[name].weight.zero_()
            head.maps[name].weight[:LATENT] = value
        head.bias.copy_(MultivariateNormal().raw_parameters(offset, p))
    return guide


def monte_carlo_error(model, guide, x, c, num_samples):
    """Standard error of the log of a mean of weights, by the delta method."""
    torch.manual_seed(9)
    with torch.no_grad():
        w = trace_pair(model, guide, {"x": x, "c": c}, num_particles=num_samples).log_weight()
    w = (w - w.max(0).values).exp()
    return w.std(0) / w.mean(0) / math.sqrt(num_samples)


def test_with_the_exact_posterior_the_elbo_is_log_p_of_x_given_c(linear, xc):
    x, c = xc
    truth = evidence(linear, x, c)
    for bound in (pv.evaluate.elbo, pv.evaluate.log_likelihood):
        actual = bound(linear, exact_guide(linear), x, num_samples=1, c=c)
        torch.testing.assert_close(actual, truth, atol=1e-9, rtol=0)


def test_monte_carlo_and_importance_sampling_both_find_log_p_of_x_given_c(linear, xc):
    x, c = xc
    truth = evidence(linear, x, c)
    wrong = exact_guide(linear)
    with torch.no_grad():  # mean off, scales half as large again
        wrong.factors["z"].head.bias[:LATENT] += 0.2
        wrong.factors["z"].head.bias[LATENT : 2 * LATENT] += 0.4
    gap = {}
    for name, guide in (("monte carlo", PriorGuide(linear)), ("importance", wrong)):
        bound = pv.evaluate.log_likelihood(linear, guide, x, num_samples=20_000, c=c)
        error = monte_carlo_error(linear, guide, x, c, 20_000)
        assert error.max() < 0.1 and ((bound - truth).abs() < 4 * error).all()
        assert (pv.evaluate.elbo(linear, guide, x, 100, c=c).mean() < truth.mean() - 0.02).all()
        gap[name] = error.mean()
    assert gap["importance"] < gap["monte carlo"]


def test_the_monte_carlo_estimate_is_the_one_written_by_hand(linear, xc):
    x, c = xc
    torch.manual_seed(0)
    z = linear.p_z(c=c).sample((50,))
    by_hand = linear.p_x(z=z, c=c).log_prob(x).logsumexp(0) - math.log(50)
    torch.manual_seed(0)
    actual = pv.evaluate.log_likelihood(linear, PriorGuide(linear), x, 50, seed=None, c=c)
    # `log_likelihood` first sizes its chunks with a run of two rows, which takes noise
    torch.manual_seed(0)
    with torch.no_grad():
        same = trace_pair(linear, PriorGuide(linear), {"x": x, "c": c}, 50).log_weight()
    torch.testing.assert_close(same.logsumexp(0) - math.log(50), by_hand.detach())
    error = monte_carlo_error(linear, PriorGuide(linear), x, c, 50)
    assert ((actual - by_hand).abs() < 6 * error).all()


# ----------------------------------------------------------- one latent, by quadrature


def test_of_a_bernoulli_cvae_both_estimators_find_the_quadrature():
    torch.manual_seed(3)
    model = CVAE((3,), (2,), 1, "bernoulli", SMALL).double()
    guide = Guide(model, network=SMALL).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    x = torch.tensor([*itertools.product([0.0, 1.0], repeat=3)], dtype=torch.float64)
    c = torch.randn(1, 2, dtype=torch.float64).expand(8, 2)
    prior = model.p_z(c=c[:1])
    z = (
        prior.mean
        + prior.variance.sqrt() * torch.linspace(-9, 9, 2001, dtype=torch.float64)[:, None]
    )
    log_p = model.p_x(z=z[:, None], c=c).log_prob(x) + prior.log_prob(z)[:, None]
    truth = torch.trapezoid(log_p.exp(), z, dim=0).log().detach()
    assert truth.exp().sum().item() == pytest.approx(1, abs=1e-9)  # over all x
    for q in (PriorGuide(model), guide):
        bound = pv.evaluate.log_likelihood(model, q, x, num_samples=20_000, c=c)
        assert ((bound - truth).abs() < 4 * monte_carlo_error(model, q, x, c, 20_000)).all()


def test_the_baselines_elbo_is_exact_and_its_law_sums_to_one():
    model = NNBaseline((3,), (2,), "bernoulli", SMALL)
    guide = Guide(model)
    x = torch.tensor([*itertools.product([0.0, 1.0], repeat=3)])
    c = torch.randn(1, 2).expand(8, 2)
    logits = model.p_x(c=c).base_dist.logits
    by_hand = -torch.nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none")
    bound = pv.evaluate.elbo(model, guide, x, c=c)
    torch.testing.assert_close(bound, by_hand.sum(-1).detach())
    torch.testing.assert_close(pv.evaluate.log_likelihood(model, guide, x, 3, c=c), bound)
    assert bound.exp().sum().item() == pytest.approx(1, abs=1e-5)


# ------------------------------------------------------------------- the relaxed prior


def test_the_relaxed_cvae_is_a_cvae_whose_prior_is_constant():
    torch.manual_seed(0)
    whole = CVAE((D,), (C,), LATENT, NormalLikelihood(), SMALL)
    relaxed = CVAE((D,), (C,), LATENT, NormalLikelihood(), SMALL, conditional_prior=False)
    relaxed.p_x.load_state_dict(whole.p_x.state_dict())
    with torch.no_grad():
        for parameter in whole.p_z.parameters():
            parameter.zero_()  # mean 0, scale 1
    guide = Guide(whole, network=SMALL)
    x, c = torch.randn(N, D), torch.randn(N, C)
    results = []
    for model in (whole, relaxed):
        torch.manual_seed(5)
        guide.zero_grad()
        ELBO().differentiable_loss(model, guide, x=x, c=c).backward()
        gradients = [p.grad.clone() for m in (model.p_x, guide) for p in m.parameters()]
        results.append((pv.evaluate.elbo(model, guide, x, c=c), *gradients))
    torch.testing.assert_close(*results)


# ------------------------------------------------------------- the prior as a guide


def test_the_prior_guide_has_a_kl_of_zero_and_nothing_of_its_own(linear, xc):
    x, c = xc
    guide = PriorGuide(linear)
    assert (pv.evaluate.elbo_terms(linear, guide, x, c=c)["z"] == 0).all()
    assert not [*guide.parameters(), *guide.buffers(), *guide.state_dict()]
    assert len([*guide.modules()]) == 1
    sharing_factor, its_guide = copy.deepcopy((linear, guide))
    with torch.no_grad():
        for parameter in sharing_factor.parameters():
            parameter.mul_(2)
    assert (pv.evaluate.elbo_terms(sharing_factor, its_guide, x, c=c)["z"] == 0).all()
    assert (pv.evaluate.elbo_terms(linear, guide, x, c=c)["z"] == 0).all()


def gradients(model):
    return {n: p.grad.clone() for n, p in model.named_parameters()}


def test_its_gradient_is_the_gsnns_written_by_hand(linear, xc):
    x, c = xc
    torch.manual_seed(4)
    z = linear.p_z(c=c).rsample()
    (-linear.p_x(z=z, c=c).log_prob(x).sum()).backward()
    by_hand = gradients(linear)
    linear.zero_grad()
    torch.manual_seed(4)
    ELBO().differentiable_loss(linear, PriorGuide(linear), x=x, c=c).backward()
    torch.testing.assert_close(gradients(linear), by_hand)
    assert all(g.abs().sum() > 0 for g in by_hand.values())


def test_the_prior_guide_sums_discrete_latents_and_takes_functions():
    """log p(x) of a linear mixture VAE is a Gaussian mixture, in closed form."""
    torch.manual_seed(0)
    model = MixtureVAE((D,), 3, LATENT, NormalLikelihood(scale=SCALE), LINEAR).double()
    x = model(size=N).detach()
    w, b = model.p_x.head.maps["z"].weight.detach(), model.p_x.head.bias.detach()
    prior = model.p_z(y=torch.eye(3, dtype=torch.float64))
    noise = SCALE**2 * torch.eye(D, dtype=torch.float64)
    covariance = w @ torch.diag_embed(prior.variance.detach()) @ w.T + noise
    each = TorchMultivariateNormal(prior.mean.detach() @ w.T + b, covariance).log_prob(x[:, None])
    truth = (each + model.p_y().logits.detach()).logsumexp(-1)

    def function(data, size=None):
        return model(data, size=size)

    for program in (model, function):
        bound = pv.evaluate.log_likelihood(program, PriorGuide(program), x, 10_000)
        torch.testing.assert_close(bound, truth, atol=0.1, rtol=0)
        assert (bound - truth).abs().mean() < 0.03


def test_the_prior_guide_samples_no_data(linear, xc):
    x, c = xc
    for given in ({"x": x}, {}):
        trace = poutine.trace(PriorGuide(linear)).get_trace(c=c, **given)
        assert set(trace.stochastic_nodes) - {"data"} == {"z"} and not trace.observation_nodes


# ------------------------------------------------------------------------- the hybrid


@pytest.fixture
def pair():
    torch.manual_seed(0)
    model = CVAE((D,), (C,), LATENT, NormalLikelihood(), SMALL).double()
    return model, Guide(model, network=SMALL).double()


def loss_and_gradients(pair, objectives, x, c):
    """Of a sum of weighted `(objective, guide)`s, drawn one after the other."""
    for m in pair:
        m.zero_grad()
    torch.manual_seed(7)
    model = pair[0]
    loss = sum(a * o.differentiable_loss(model, guide, x=x, c=c) for a, o, guide in objectives)
    loss.backward()
    actual = [
        torch.zeros_like(p) if p.grad is None else p.grad for m in pair for p in m.parameters()
    ]
    return loss.detach(), [g.clone() for g in actual]


@pytest.mark.parametrize("options", [{}, {"num_particles": 3}, {"beta": 0.5}])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_hybrid_is_the_weighted_sum_of_elbo_and_gsnn(pair, xc, alpha, options):
    x, c = xc
    model, guide = pair
    elbo = (alpha, ELBO(**options), guide)
    gsnn = (1 - alpha, ELBO(num_particles=options.get("num_particles", 1)), PriorGuide(model))
    expected = [part for part in (elbo, gsnn) if part[0] > 0]
    hybrid = Hybrid(alpha, **options)
    loss, actual = loss_and_gradients(pair, [(1, hybrid, guide)], x, c)
    torch.testing.assert_close((loss, actual), loss_and_gradients(pair, expected, x, c))
    torch.manual_seed(7)
    assert hybrid.loss(model, guide, x=x, c=c) == pytest.approx(loss.item())
    assert hybrid.describe()["alpha"] == alpha and hybrid.describe()["name"] == "hybrid"


def test_a_hybrid_of_no_weight_is_refused():
    for alpha in (-0.1, 1.1, float("nan")):
        with pytest.raises(pv.UserError, match="alpha"):
            Hybrid(alpha)


# ------------------------------------------------------------------------- training


def conditional_digits(quadrants=1):
    digits = pv.data.load("digits", binarize="static")
    return digits.with_condition(pv.data.Quadrants(quadrants, digits.x_shape))


def trained(name, epochs=30, **overrides):
    method = pv.method(name, "digits", epochs=epochs, **overrides)
    run = method.fit(device="cpu", progress=False)
    return run.model, run.guide, run.data


@pytest.mark.parametrize(
    "name", covering(["cvae-baseline", "gsnn", "hybrid-cvae", "nn-baseline"], every=2)
)
def test_the_recorded_step_is_the_plain_one(name):
    bounds = []
    for compile in (False, "recorded"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            options = {"initialize.epochs": 1} if name == "cvae-baseline" else {}
            model, guide, data = trained(name, 1, compile=compile, hidden=[8], **options)
        test = data.observed_split("test")
        bounds.append(pv.evaluate.elbo(model, guide, test.x, c=test.c))
    torch.testing.assert_close(*bounds, atol=1e-3, rtol=1e-4)


def log_likelihood(model, guide, data, num_samples=50):
    part = data.observed_split("test")
    return pv.evaluate.log_likelihood(model, guide, part.x, num_samples, c=part.c).mean().item()


@pytest.mark.slow
def test_a_latent_and_a_prior_that_depends_on_c_each_better_the_prediction():
    actual = {}
    for name in ("nn-baseline", "relaxed-cvae", "cvae"):
        actual[name] = log_likelihood(*trained(name, 40, compile="recorded", lr=2e-3), 200)
    assert actual["relaxed-cvae"] > actual["nn-baseline"] + 0.5
    assert actual["cvae"] > actual["relaxed-cvae"] + 0.1


def test_a_baseline_is_trained_first_and_then_frozen_or_trained_along():
    data = conditional_digits()
    bound = {}
    for kind in ("frozen", "joint"):
        torch.manual_seed(0)
        model = CVAE(data.x_shape, data.c_shape, 2, network=SMALL, baseline=kind)
        start = copy.deepcopy(model.baseline)
        guide = Guide(model, network=SMALL)
        initialize = pv.train.BaselineInitialization(epochs=5, lr=1e-2)
        initialize(model, guide, data, "cpu", 0, progress=False)
        first = copy.deepcopy(model.baseline)
        valid = data.observed_split("valid")
        for name, baseline in (("start", start), ("first", first)):
            bound[name] = pv.evaluate.elbo(baseline, Guide(baseline), valid.x, c=valid.c).mean()
        assert bound["first"] > bound["start"] + 3
        pv.fit(model, guide, data, epochs=1, weight_decay=0.1, progress=False, device="cpu")
        same = [
            torch.equal(a, b)
            for a, b in zip(first.parameters(), model.baseline.parameters(), strict=True)
        ]
        assert all(same) if kind == "frozen" else not any(same)
    with pytest.raises(pv.UserError, match="no baseline"):
        plain = CVAE(data.x_shape, data.c_shape, 2, network=SMALL)
        initialize(plain, Guide(plain), data, "cpu")


def test_the_prior_sees_the_baselines_guess():
    torch.manual_seed(0)
    model = CVAE((D,), (C,), LATENT, "bernoulli", SMALL, baseline="frozen")
    c = torch.randn(N, C)
    before = model.prior(c).mean
    torch.testing.assert_close(
        before, model.p_z(c=c, baseline_prediction=model.baseline.p_x(c=c).mean).mean
    )
    with torch.no_grad():
        model.baseline.p_x.head.bias.add_(1)
    assert not torch.allclose(model.prior(c).mean, before)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"conditional_prior": False, "decoder_parents": ["z"]}, "x would not depend on c"),
        ({"decoder_parents": ["w"]}, "unknown parent of x 'w'"),
        ({"baseline": "thawed"}, "unknown baseline"),
        ({"conditional_prior": False, "baseline": "joint"}, "conditional_prior"),
    ],
)
def test_a_cvae_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(pv.UserError, match=message):
        CVAE((D,), (C,), LATENT, network=SMALL, **options)


# ----------------------------------------------------------------- samples, predictions


def test_samples_are_given_one_c_for_all_or_one_for_each():
    model = NNBaseline((D,), (C,), NormalLikelihood(scale=1e-3), SMALL)
    c = torch.randn(5, C)
    expected = model.p_x(c=c).mean
    torch.testing.assert_close(pv.sample(model, 5, c=c, mean=True), expected)
    torch.testing.assert_close(pv.sample(model, 5, c=c, seed=0), expected, atol=0.01, rtol=0)
    same = pv.sample(model, 4, c=c[0], mean=True)
    torch.testing.assert_close(same, expected[:1].expand(4, D))
    for wrong in ({}, {"c": c[:3]}, {"c": torch.zeros(C + 1)}):
        with pytest.raises(pv.UserError, match="c"):
            pv.sample(model, 5, **wrong)
    with pytest.raises(pv.UserError, match="pass c="):
        model(size=3)


def test_the_prediction_is_the_mean_at_the_priors_mean(linear, xc):
    _, c = xc
    by_hand = linear.p_x(z=linear.p_z(c=c).mean, c=c).mean.detach()
    torch.testing.assert_close(pv.generate.predict_mean(linear, c), by_hand)
    actual = pv.evaluate.reconstruct(linear, PriorGuide(linear), xc[0], c=c)
    torch.testing.assert_close(actual, by_hand)


# ------------------------------------------------------------------------ what is seen


def test_both_estimates_stand_side_by_side_under_their_names():
    data = conditional_digits()
    model = CVAE(data.x_shape, data.c_shape, 2, network=SMALL)
    for guide, names in (
        (Guide(model, network=SMALL), ["importance weighted", "Monte Carlo from the prior"]),
        (PriorGuide(model), ["Monte Carlo from the prior"]),
    ):
        result = summary.summarize(model, guide, data, num_samples=20)
        table = summary.table(result)
        rows = [line for line in table.splitlines() if line.startswith("log p(x | c)")]
        assert len(rows) == len(names)
        assert all(f"{name}, 20 samples" in table for name in names)
        part = data.observed_split("test")
        bound = pv.evaluate.log_likelihood(model, PriorGuide(model), part.x, 20, c=part.c)
        key = "log_likelihood_monte_carlo" if len(names) == 2 else "log_likelihood"
        assert result[key] == pytest.approx(bound.mean().item(), abs=1e-4)
    baseline = NNBaseline(data.x_shape, data.c_shape, network=SMALL)
    result = summary.summarize(baseline, Guide(baseline), data, num_samples=3)
    assert result["log_likelihood"] == pytest.approx(result["elbo"])
    assert "exact, there is no latent" in summary.table(result)


def test_completions_keep_what_is_given_and_show_the_truth():
    data = conditional_digits(2)
    model = CVAE(data.x_shape, data.c_shape, 2, network=SMALL)
    part = data.observed_split("test")[:4]
    columns = sample_figures.completions(model, data, part.x, part.c, draws=2)
    assert list(columns) == ["given", "sample 1", "sample 2", "prediction", "truth"]
    mask = data.condition.mask()
    for image in columns.values():
        assert image.shape == (4, 1, 8, 8) and torch.equal(image[:, mask], part.c)
    assert torch.equal(columns["truth"], data.test.x[:4])
    assert (columns["given"][:, ~mask] == 0.5).all()
    assert not torch.equal(columns["sample 1"], columns["sample 2"])


def test_pixels_are_centered_for_the_encoder_in_x_and_in_c():
    guide = pv.method("cvae", "digits", quadrants=1).guide
    assert guide.input_scaling == {"x": (0.5, 0.5), "c": (0.5, 0.5)}
    guide = pv.method("cvae", "digits", condition="labels").guide
    assert guide.input_scaling == {"x": (0.5, 0.5)}


def command(tmp_path, *arguments):
    options = ["--epochs", "1", "--hidden", "[8]", "--num_samples", "5", "--progress", "false"]
    return main(["fit", *arguments, *options, "--device", "cpu", "--out", str(tmp_path / "run")])


@pytest.mark.parametrize("name", covering(CONDITIONAL, every=3))
def test_the_command_completes_quadrants(name, tmp_path, capsys):
    more = ["--initialize.epochs", "1"] if name == "cvae-baseline" else []
    assert command(tmp_path, name, *more, "--quadrants", "3") == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Completions" in page and "log p(x | c)" in page
    assert "log p(x | c)" in capsys.readouterr().out
    assert main(["sample", str(tmp_path / "run"), "--num", "4"]) == 0
    import numpy as np

    with np.load(tmp_path / "run" / "samples.npz") as actual:
        assert actual["x"].shape == (4, 1, 8, 8)


def test_the_command_conditions_on_labels(tmp_path):
    import numpy as np

    assert command(tmp_path, "cvae", "--condition", "labels") == 0
    assert "one row per label" in (tmp_path / "run" / "report.html").read_text()
    assert main(["sample", str(tmp_path / "run"), "--num", "4", "--y", "3"]) == 0
    with np.load(tmp_path / "run" / "samples.npz") as actual:
        assert actual["x"].shape == (4, 1, 8, 8)
    assert main(["sample", str(tmp_path / "run"), "--y", "10"]) == 1


def test_the_command_regresses_on_an_arrays_c(tmp_path):
    import numpy as np

    c = np.linspace(-2, 2, 200, dtype=np.float32)[:, None]
    np.savez(tmp_path / "curve.npz", x=np.sin(c), c=c)
    assert command(tmp_path, "cvae", "--data", str(tmp_path / "curve.npz")) == 0
    assert "c across, x upwards" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["vae", "--quadrants", "1"], "vae has no option 'quadrants'"),
        (["vae", "--condition", "labels"], "vae has no option 'condition'"),
        (["cvae", "--quadrants", "4"], "1, 2 or 3"),
        (["cvae", "--condition", "data"], "no covariates c"),
        (["cvae", "--condition", "pixels"], "unknown condition"),
        (["cvae", "--condition", "labels", "--quadrants", "2"], "not labels"),
        (["cvae", "--data", "arcs", "--condition", "quadrants"], "parts of images"),
        (["cvae", "--alpha", "0.5"], "alpha"),
        (["cvae", "--objective", "hibrid"], "did you mean 'Hybrid'"),
        (["cvae", "--initialize", "BaselineInitialization"], "no baseline to train first"),
        (["gsnn", "--family", "Normal"], "gsnn has no option 'family'"),
    ],
)
def test_the_command_says_what_is_wrong_in_one_line(arguments, message, tmp_path, capsys):
    assert command(tmp_path, *arguments) == 1
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1


def test_svi_trains_a_gsnn_and_the_store_has_the_model_alone():
    torch.manual_seed(0)
    model = CVAE((D,), (C,), LATENT, NormalLikelihood(), SMALL)
    guide = PriorGuide(model)
    before = copy.deepcopy(model.state_dict())
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), ELBO())
    svi.step(torch.randn(N, D), c=torch.randn(N, C))
    assert all(not torch.equal(v, before[n]) for n, v in model.state_dict().items())
    assert len(pyro.get_param_store()) == len([*model.parameters()])
