"""Missing values: every number is that of the observed values alone, exactly."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from commands import main

import pyro_vae as pv
from pyro_vae.conditionals import MLP, IgnoreMissing, NormalLikelihood

NAN = math.nan


def with_holes(x, fraction=0.3, seed=0):
    """x with a random fraction of its values missing, and every row with one observed value."""
    generator = torch.Generator().manual_seed(seed)
    holes = torch.rand(x.shape, generator=generator) < fraction
    holes[:, 0] = False
    return torch.where(holes, NAN, x)


class FactorAnalysis:
    """p(z) = N(0, I), p(x | z) = N(Wz + b, s^2 I): the marginal of any entries is closed form."""

    def __init__(self, size=40, model=None, x=None):
        torch.manual_seed(3)
        likelihood = IgnoreMissing(NormalLikelihood(scale=0.7))
        network = MLP(())
        self.model = model or pv.models.VAE((5,), 2, likelihood=likelihood, network=network)
        self.model.double()
        head = self.model.p_x.head
        self.loading, self.offset = head.maps["z"].weight.detach(), head.bias.detach()
        if model is None:
            self.loading.copy_(torch.randn(5, 2).double())
            self.offset.copy_(torch.randn(5).double())
        with torch.no_grad():
            self.scale = self.model.p_x(z=torch.zeros(1, 2).double()).stddev[0, 0].item()
            self.x = with_holes(self.model(size=size)) if x is None else x

    def of_row(self, row):
        """`(log p(x_obs), p(z | x_obs))` of one row."""
        seen = ~row.isnan()
        w, b = self.loading[seen], self.offset[seen]
        noise = self.scale**2 * torch.eye(int(seen.sum())).double()
        marginal = torch.distributions.MultivariateNormal(b, w @ w.T + noise)
        precision = torch.eye(w.shape[1]).double() + w.T @ w / self.scale**2
        covariance = torch.linalg.inv(precision)
        mean = covariance @ w.T @ (row[seen] - b) / self.scale**2
        posterior = torch.distributions.MultivariateNormal(mean, covariance)
        return marginal.log_prob(row[seen]), posterior

    def log_prob(self):
        return torch.stack([self.of_row(row)[0] for row in self.x])

    def conditional(self, row):
        """Mean and covariance of the missing values of a row given the others."""
        seen, w, b = ~row.isnan(), self.loading, self.offset
        covariance = w @ w.T + self.scale**2 * torch.eye(5).double()
        gain = covariance[~seen][:, seen] @ torch.linalg.inv(covariance[seen][:, seen])
        mean = b[~seen] + gain @ (row[seen] - b[seen])
        return mean, covariance[~seen][:, ~seen] - gain @ covariance[seen][:, ~seen]

    def exact_guide(self):
        """The exact posterior of z given the observed entries."""
        rows = [self.of_row(row)[1] for row in self.x]
        mean = torch.stack([q.mean for q in rows])
        tril = torch.stack([q.scale_tril for q in rows])

        def guide(x, index):
            with pyro.plate("data", len(x)):
                q = dist.MultivariateNormal(mean[index], scale_tril=tril[index])
                pyro.sample("z", q)

        return guide


def test_the_elbo_at_the_exact_posterior_is_the_marginal_of_the_observed_entries():
    problem = FactorAnalysis()
    index = torch.arange(len(problem.x))
    guide = problem.exact_guide()
    bound = pv.evaluate.elbo(problem.model, guide, problem.x, index=index)
    torch.testing.assert_close(bound, problem.log_prob(), rtol=1e-9, atol=1e-9)
    weighted = pv.evaluate.log_likelihood(
        problem.model, guide, problem.x, num_samples=3, index=index
    )
    torch.testing.assert_close(weighted, problem.log_prob(), rtol=1e-9, atol=1e-9)


def test_importance_sampling_from_the_prior_reaches_the_marginal():
    problem = FactorAnalysis()
    guide = pv.guides.PriorGuide(problem.model)
    estimate = pv.evaluate.log_likelihood(problem.model, guide, problem.x, num_samples=20_000)
    torch.testing.assert_close(estimate, problem.log_prob(), rtol=0, atol=0.2)
    assert (estimate - problem.log_prob()).mean().abs() < 0.02


def test_ais_reaches_the_marginal():
    problem = FactorAnalysis()
    bound = pv.diagnostics.ais(problem.model, problem.x[:10], num_chains=16, num_steps=100)
    torch.testing.assert_close(bound, problem.log_prob()[:10], rtol=0, atol=0.3)


def bernoulli_mixture(missing=True):
    """A mixture of two Bernoulli vectors: p(x_obs) is a sum of two terms."""
    torch.manual_seed(1)
    likelihood = IgnoreMissing("bernoulli") if missing else "bernoulli"
    model = pv.models.M2((4,), 2, latent_dim=1, likelihood=likelihood, network=MLP((5,)))
    return model, pv.guides.Guide(model, network=MLP((5,)))


def test_bernoulli_entries_sum_to_one_over_the_observed_ones():
    """Enumeration: sum over the completions of p(x) is p(x_obs)."""
    fn = pv.conditionals.Conditional((3,), {"z": (2,)}, IgnoreMissing("bernoulli"))
    complete = fn(z=torch.tensor([[0.3, -1.2]]))
    x = torch.tensor([[1.0, NAN, NAN]])
    total = sum(
        complete.log_prob(torch.tensor([[1.0, a, b]])).exp() for a in (0.0, 1) for b in (0.0, 1)
    )
    torch.testing.assert_close(complete.log_prob(x).exp(), total)


@pytest.mark.parametrize("name", pv.conditionals.likelihoods.LIKELIHOODS)
def test_every_likelihood_scores_observed_entries_alone(name):
    if name == "one-hot":
        return
    torch.manual_seed(0)
    full = pv.conditionals.Conditional((4,), {"z": (2,)}, pv.conditionals.likelihood(name))
    part = pv.conditionals.Conditional((4,), {"z": (2,)}, IgnoreMissing(name))
    part.load_state_dict(full.state_dict())
    z = torch.randn(6, 2)
    x = full(z=z).sample()
    holes = torch.rand(6, 4) < 0.5
    masked = torch.where(holes, NAN, x)
    entries = full(z=z).base_dist.log_prob(x)
    expected = torch.where(holes, 0.0, entries).sum(-1)
    log_prob = part(z=z).log_prob(masked)
    torch.testing.assert_close(log_prob, expected)
    gradients = torch.autograd.grad(log_prob.sum(), list(part.parameters()), allow_unused=True)
    assert all(g.isfinite().all() for g in gradients if g is not None)
    assert torch.equal(part(z=z).log_prob(x), full(z=z).log_prob(x))
    assert not part(z=z).sample().isnan().any()
    assert torch.equal(part(z=z).mean, full(z=z).mean)


def test_a_user_distribution_on_the_positive_numbers_has_finite_gradients():
    rate = torch.tensor([2.0, 3.0], requires_grad=True)
    fn = pv.distributions.IgnoreMissing(dist.Gamma(rate, 1.0))
    log_prob = fn.log_prob(torch.tensor([NAN, 1.5])).sum()
    (gradient,) = torch.autograd.grad(log_prob, rate)
    assert gradient[0] == 0 and gradient[1].isfinite()


def test_entries_that_depend_on_each_other_are_refused():
    likelihood = IgnoreMissing(pv.conditionals.MultivariateNormal())
    model = pv.models.VAE((3,), 2, likelihood=likelihood)
    with pytest.raises(pv.UserError, match="entries that depend on each other"):
        model(size=2)


@pytest.mark.slow
def test_training_recovers_the_factor_analysis_of_data_with_holes():
    """Held-out log-likelihoods in closed form: the trained model's is close to the true one's."""
    problem = FactorAnalysis(size=3000)
    train, test = problem.x[:2000].float(), problem.x[2000:]
    model = pv.models.VAE((5,), 2, likelihood=IgnoreMissing("normal"), network=MLP(()))
    family = {"z": pv.conditionals.MultivariateNormal()}
    guide = pv.guides.Guide(model, network=MLP((64,)), family=family)
    pv.fit(model, guide, train, epochs=80, lr=1e-2, progress=False)
    true = FactorAnalysis(model=problem.model, x=test).log_prob().mean()
    learned = FactorAnalysis(model=model, x=test).log_prob().mean()
    mean_filled = FactorAnalysis(model=model, x=test.nan_to_num()).log_prob().mean()
    assert true - 0.05 < learned < true + 0.02
    assert mean_filled < learned - 0.5


@pytest.mark.parametrize("compile", [False, "recorded"])
@pytest.mark.parametrize("objective", ["ELBO", "IWAE"])
def test_the_recorded_step_is_the_plain_one_and_hidden_values_have_no_influence(compile, objective):
    """Whatever stands behind a missing value, weights after training are the same."""
    x = with_holes(torch.bernoulli(torch.full((64, 4), 0.4)))
    weights = {}
    for backend in {False, compile}:
        model, guide = bernoulli_mixture()
        pv.fit(
            model, guide, x, epochs=3, batch_size=16, compile=backend, progress=False,
            objective=getattr(pv.objectives, objective)(),
        )  # fmt: skip
        weights[backend] = torch.cat([p.flatten() for p in model.parameters()])
        assert weights[backend].isfinite().all()
    torch.testing.assert_close(weights[False], weights[compile], rtol=1e-4, atol=1e-5)


def test_without_missing_values_the_wrapped_likelihood_trains_the_same():
    x = torch.bernoulli(torch.full((64, 4), 0.4))
    weights = []
    for missing in (False, True):
        model, guide = bernoulli_mixture(missing)
        pv.fit(model, guide, x, epochs=3, batch_size=16, compile=False, progress=False)
        weights.append(torch.cat([p.flatten() for p in model.parameters()]))
    torch.testing.assert_close(*weights)


def test_imputation_draws_from_the_models_conditional():
    """Against the closed form p(x_miss | x_obs) of factor analysis."""
    problem = FactorAnalysis()
    guide = pv.guides.PriorGuide(problem.model)
    row = torch.tensor([[1.0, NAN, -0.5, NAN, 0.3]]).double()
    done = pv.generate.impute(problem.model, guide, row, num_samples=4000, steps=150)
    assert done.x.shape == (4000, 1, 5)
    seen = ~row[0].isnan()
    assert torch.equal(done.x[:, 0, seen], row[:, seen].expand(4000, 3))
    mean, spread = problem.conditional(row[0])
    drawn = done.x[:, 0, ~seen]
    assert (drawn.mean(0) - mean).abs().max() < 0.1
    assert (drawn.T.cov() - spread).abs().max() < 0.15


def test_a_guide_that_saw_no_missing_value_in_training_still_draws_from_the_conditional():
    """Half of the proposals come from the completed row, which such a guide knows."""
    problem = FactorAnalysis()
    w, b, scale = problem.loading, problem.offset, problem.scale
    precision = torch.eye(2).double() + w.T @ w / scale**2

    def guide(x):
        """Exact for complete rows; of others it takes a missing value for 10."""
        mean = (x.nan_to_num(10.0) - b) @ w / scale**2 @ torch.linalg.inv(precision)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(mean, precision_matrix=precision))

    row = torch.tensor([[1.0, NAN, -0.5, NAN, 0.3]]).double()
    drawn = pv.generate.impute(problem.model, guide, row, num_samples=4000, steps=60).x[:, 0]
    mean, spread = problem.conditional(row[0])
    missing = row[0].isnan()
    assert (drawn[:, missing].mean(0) - mean).abs().max() < 0.1
    assert (drawn[:, missing].T.cov() - spread).abs().max() < 0.15


def test_missing_values_must_be_declared():
    x = with_holes(torch.randn(20, 3))
    with pytest.raises(pv.UserError, match="missing=True"):
        pv.data.from_arrays(x)
    data = pv.data.from_arrays(x, missing=True)
    assert data.missing and "missing values" in repr(data) and data.describe()["missing"]
    assert data.likelihood == "normal"
    assert not pv.data.from_arrays(torch.randn(20, 3), missing=True).missing
    model = pv.models.VAE((3,), 2, likelihood="normal")
    guide = pv.guides.Guide(model)
    for call in (
        lambda: pv.fit(model, guide, data, epochs=1, progress=False),
        lambda: pv.evaluate.elbo(model, guide, x),
        lambda: pv.compare({"m": lambda: model}, {"g": lambda m: guide}, data, epochs=1),
    ):
        with pytest.raises(pv.UserError, match="IgnoreMissing"):
            call()
    x[3, 1] = math.inf
    with pytest.raises(pv.UserError, match="1 infinite values"):
        pv.data.from_arrays(x, missing=True)
    with pytest.raises(pv.UserError, match="NaN"):
        pv.data.from_arrays(torch.randn(20, 3), c=with_holes(torch.randn(20, 2)), missing=True)


def test_a_likelihood_that_ignores_missing_values_declares_them():
    x = with_holes(torch.randn(40, 3))
    model = pv.models.VAE((3,), 2, likelihood=IgnoreMissing("normal"), network=MLP((8,)))
    guide = pv.guides.Guide(model, network=MLP((8,)))
    run = pv.fit(model, guide, x, epochs=1, progress=False)
    assert run.data.missing
    loader = torch.utils.data.DataLoader(x, batch_size=10)
    pv.fit(model, guide, loader, epochs=1, progress=False)
    assert pv.evaluate.encode(model, guide, x)["z"].isfinite().all()
    assert pv.evaluate.reconstruct(model, guide, x).isfinite().all()


def test_masked_arrays_are_missing_values():
    values = np.array([[0, 255], [51, 0], [102, 255]], dtype=np.uint8)
    masked = np.ma.masked_array(values, [[0, 1], [0, 0], [1, 0]])
    data = pv.data.from_arrays(masked, valid=0, test=0, missing=True)
    expected = torch.tensor([[0, NAN], [0.2, 0], [NAN, 1]])
    torch.testing.assert_close(data.train.x, expected, equal_nan=True)


def test_columns_are_standardized_by_their_observed_values():
    x = torch.tensor([[1.0, 10.0], [3.0, NAN], [NAN, 30.0], [5.0, 20.0]])
    data = pv.data.from_arrays(x, valid=0, test=0, missing=True)
    data = pv.data.standardize(data)
    mean, sd = data.scaling
    expected = torch.tensor([[3.0, 20.0], [(8 / 3) ** 0.5, (200 / 3) ** 0.5]]).double()
    torch.testing.assert_close(torch.stack([mean, sd]), expected)
    torch.testing.assert_close(data.unstandardize(data.train.x), x, equal_nan=True)


def test_binarization_keeps_missing_values():
    gray = with_holes(torch.rand(200, 3))
    for kind in ("static", "dynamic"):
        data = pv.data.from_arrays(gray, valid=0, test=0, binarize=kind, missing=True)
        (batch,) = pv.data.batches(data, 200, "cpu").epoch(0)
        x = batch["x"]
        assert torch.equal(x.isnan(), gray[batch["index"]].isnan())
        assert set(x[~x.isnan()].tolist()) == {0.0, 1.0}


def test_a_support_is_checked_at_observed_values():
    model = pv.models.VAE((2,), 1, likelihood=IgnoreMissing("bernoulli"))
    guide = pv.guides.Guide(model)
    pv.check_pair(model, guide, torch.tensor([[1.0, NAN], [NAN, 0.0]]))
    with pytest.raises(pv.UserError, match="outside the support of its Bernoulli"):
        pv.check_pair(model, guide, torch.tensor([[0.5, NAN], [NAN, 0.0]]))


def test_covariates_must_be_complete():
    images = with_holes(torch.rand(20, 1, 4, 4).reshape(20, 16)).reshape(20, 1, 4, 4)
    data = pv.data.from_arrays(images, missing=True)
    with pytest.raises(pv.UserError, match="covariates must be complete"):
        data.with_condition(pv.data.Quadrants(1, (1, 4, 4)))


def test_a_model_whose_latents_depend_on_all_of_x_is_refused():
    with pytest.raises(pv.UserError, match="skip=True"):
        pv.models.AuxiliaryDGM((4,), 2, likelihood=IgnoreMissing("normal"))


@pytest.mark.parametrize("name", ["vae", "gmvae", "vade", "vampprior", "m2", "semi-amortized"])
def test_methods_train_and_report_on_data_with_missing_values(name, tmp_path):
    torch.manual_seed(0)
    y = torch.arange(60) % 2
    x = with_holes(torch.randn(60, 4) + 4 * y.unsqueeze(1))
    small = {"hidden": [8], "latent_dim": 2, "epochs": 1}
    if name in ("gmvae", "vade"):
        small |= {"num_components": 2, "initialize.epochs": 2, "initialize.fits": 1}
        small |= {"initialize.vaes": 1}
    if name == "vampprior":
        small |= {"prior.num_components": 5}
    data = pv.data.from_arrays(x, y, missing=True)
    method = pv.method(name, data, **small)
    assert method.config["missing"] and method.model.p_x.family.ignores_missing
    run = method.fit(progress=False, out=tmp_path / "run")
    result = run.evaluate("test", num_samples=5)
    assert math.isfinite(result["log_likelihood"])
    assert run.sample(7).isfinite().all()
    again = pv.load(tmp_path / "run", data=data)
    assert again.evaluate("test", num_samples=5)["elbo"] == result["elbo"]
    if name in ("vae", "m2"):
        run.report(num_samples=5)
        pytest.importorskip("plotly")
        run.explore()
    sheet = run.sheet("impute", num=3, steps=5)
    shown = sheet.x.reshape(-1, 5, 4)  # of each data point: observed, three completions, itself
    assert shown[:, :4].isfinite().all()
    holes = shown[:, 4].isnan()
    assert holes.any()
    torch.testing.assert_close(shown[:, 1][~holes], shown[:, 4][~holes])


def test_an_npz_file_with_missing_values_trains_from_the_command_line(tmp_path, capsys):
    x = with_holes(torch.randn(50, 3)).numpy()
    path, out = tmp_path / "table.npz", tmp_path / "run"
    np.savez(path, x=x)
    base = ["fit", "vae", "--data", str(path), "--epochs", "1", "--hidden", "[8]"]
    base += ["--latent-dim", "2", "--out", str(out), "--num-samples", "5", "--progress", "false"]
    assert main(base) == 1
    assert "missing" in capsys.readouterr().err
    assert main([*base, "--missing", "true"]) == 0
    assert main(["evaluate", str(out), "--num-samples", "5"]) == 0
    assert main(["sample", str(out), "--source", "impute", "--num", "2", "--steps", "3"]) == 0
    saved = np.load(out / "impute.npz")
    assert saved["x"].shape[1:] == (3,)


def test_new_data_with_holes_for_a_run_of_complete_data_say_what_can_be_done(tmp_path, capsys):
    """The advice is for a run that is trained: its likelihood is not a choice anymore."""
    x, out, new = torch.randn(50, 3), tmp_path / "run", tmp_path / "new.npz"
    np.savez(tmp_path / "full.npz", x=x.numpy())
    np.savez(new, x=with_holes(x).numpy())
    fit = ["fit", "vae", "--data", str(tmp_path / "full.npz"), "--epochs", "1", "--out", str(out)]
    assert main([*fit, "--hidden", "[8]", "--num-samples", "5", "--progress", "false"]) == 0
    capsys.readouterr()
    for command in ("encode", "evaluate"):
        assert main([command, str(out), "--data", str(new)]) == 1
        line = capsys.readouterr().err
        assert "trained on complete data: fill them in" in line and "IgnoreMissing" not in line
    run = pv.load(out)
    for function in (run.encode, run.reconstruct, run.log_likelihood):
        with pytest.raises(pv.UserError, match="trained on complete data"):
            function(with_holes(x))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(with_holes(x)), 5)
    with pytest.raises(pv.UserError, match=r"batch \d+: x has .* trained on complete data"):
        run.evaluate(data=loader)
    assert run.impute(with_holes(x), steps=2).isfinite().all()


def test_missing_values_are_not_blamed_for_a_divergence():
    x = with_holes(torch.randn(40, 3))
    model = pv.models.VAE((3,), 2, likelihood=IgnoreMissing("normal"), network=MLP((8,)))
    guide = pv.guides.Guide(model, network=MLP((8,)))
    with pytest.raises(pv.UserError, match="a lower lr") as error:
        pv.fit(model, guide, x, epochs=20, lr=1e25, progress=False)
    assert "NaN or infinite values in" not in str(error.value)


def test_guides_are_compared_on_data_with_missing_values():
    data = pv.data.from_arrays(with_holes(torch.randn(60, 3)), missing=True)

    def model():
        return pv.models.VAE((3,), 2, likelihood=IgnoreMissing("normal"), network=MLP((8,)))

    def guide(model):
        return pv.guides.Guide(model, network=MLP((8,)))

    result = pv.compare(
        {"m": model},
        {"g": guide},
        data,
        seeds=1,
        epochs=1,
        num_gap_data=0,
        compile=False,
        progress=False,
    )
    assert "nan" not in str(result).lower()


def test_a_function_with_missing_values_says_so_and_scores_the_observed_ones():
    """Against the marginal normal of the observed entries; messages had led in a circle."""
    torch.manual_seed(0)
    weight, x = torch.randn(1, 3), torch.randn(20, 3)
    x[torch.rand(20, 3) < 0.3] = math.nan

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1))
            p_x = pv.distributions.IgnoreMissing(dist.Normal(z @ weight, 0.5))
            pyro.sample("x", p_x.to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1))

    with pytest.raises(pv.UserError, match="says so by an attribute, model.ignores_missing = True"):
        pv.evaluate.log_likelihood(model, guide, x)
    with pytest.raises(pv.UserError, match="says so by an attribute, model.ignores_missing = True"):
        pv.fit(model, guide, pv.data.from_arrays(x, missing=True), 1, progress=False)
    model.ignores_missing = True
    covariance = weight.T @ weight + 0.25 * torch.eye(3)
    exact = []
    for row in x:
        seen = ~row.isnan()
        known = torch.distributions.MultivariateNormal(
            torch.zeros(int(seen.sum())), covariance[seen][:, seen]
        )
        exact.append(known.log_prob(row[seen]) if seen.any() else torch.tensor(0.0))
    actual = pv.evaluate.log_likelihood(model, guide, x, num_samples=20_000)
    torch.testing.assert_close(actual, torch.stack(exact), rtol=0, atol=0.08)
