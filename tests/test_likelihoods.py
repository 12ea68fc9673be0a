"""Count, color, gray-level and tabular data train, from Python and from the command line."""

import numpy as np
import pytest
import scipy.stats
import torch
from commands import main
from objectives import last_gradients
from sampling import covering

import pyro_vae as pv
from pyro_vae import plots
from pyro_vae.conditionals import (
    MLP,
    Categorical,
    Conv,
    DiscretizedLogistic,
    NegativeBinomial,
    Poisson,
)
from pyro_vae.conditionals.likelihoods import LIKELIHOODS

COUNTS = ("poisson", "negative-binomial", "zero-inflated-negative-binomial")
NETWORKS = {"mlp": MLP((16,)), "conv": Conv((4, 8), (16,))}


def counts(n=600, d=12, rank=2, seed=0):
    """Counts of a known low-rank log-rate: `(x, rate)`."""
    generator = torch.Generator().manual_seed(seed)
    z, w = torch.randn(n, rank, generator=generator), torch.randn(rank, d, generator=generator)
    rate = (1 + 0.8 * z @ w).exp()
    return torch.poisson(rate, generator=generator), rate


def trained(model, x, epochs=60, lr=5e-3, **options):
    torch.manual_seed(0)
    guide = pv.guides.Guide(model, network=MLP((32,)), **options)
    pv.fit(model, guide, x, epochs=epochs, lr=lr, batch_size=100, progress=False)
    return guide


@pytest.mark.parametrize("family", [Poisson(), NegativeBinomial()], ids=["poisson", "nb"])
def test_counts_of_a_low_rank_rate_are_learned(family):
    """Held-out: better than the best constant rates, by half and more of what the truth is better by."""
    x, rate = counts()
    train, test = x[:500], x[500:]
    torch.manual_seed(0)
    model = pv.models.VAE((12,), 2, family, MLP((32,)))
    guide = trained(
        model, train, epochs=40, lr=1e-2, input_scaling={"x": (train.mean(0), train.std(0))}
    )
    actual = pv.evaluate.log_likelihood(model, guide, test, 200).mean().item()
    constant = scipy.stats.poisson.logpmf(test, train.mean(0)).sum(-1).mean()
    truth = scipy.stats.poisson.logpmf(test, rate[500:]).sum(-1).mean()  # given z: not reachable
    assert truth - constant > 20
    assert actual > constant + 0.5 * (truth - constant)


@pytest.mark.parametrize(
    "family", [DiscretizedLogistic(17), Categorical(17)], ids=["logistic", "free"]
)
def test_gray_levels_of_digits_are_learned(family):
    """Better than each pixel's own histogram of 17 levels, by 5 nats a digit."""
    data = pv.data.load("digits", binarize="none")
    train, test = data.train.x, data.test.x
    levels = (train * 16).round().long().flatten(1)
    histogram = torch.nn.functional.one_hot(levels, 17).double().sum(0) + 0.5  # [64, 17]
    log_p = (histogram / histogram.sum(-1, keepdim=True)).log()
    index = (test * 16).round().long().flatten(1)
    independent = log_p[torch.arange(64), index].sum(-1).mean().item()
    torch.manual_seed(0)
    model = pv.models.VAE(data.x_shape, 8, family, MLP((64,)))
    guide = trained(model, data, epochs=12, lr=5e-3, input_scaling={"x": (0.5, 0.5)})
    actual = pv.evaluate.log_likelihood(model, guide, test, 50).mean().item()
    assert actual > independent + 5


def color_images(n=24, seed=0):
    """Red or blue discs on gray levels of 1/255, `[N, 3, 8, 8]`."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, 3, 8, 8, generator=generator) * 0.2
    red = torch.arange(n) % 2 == 0
    x[red, 0, 2:6, 2:6] += 0.7
    x[~red, 2, 2:6, 2:6] += 0.7
    return (x * 255).round() / 255


@pytest.mark.parametrize("name, network", covering(sorted(LIKELIHOODS), list(NETWORKS), every=2))
def test_every_likelihood_trains_on_color_images_with_either_network(name, network):
    x = color_images()
    if name in ("bernoulli", "binomial"):
        x = (x > 0.5).float()
    if name in COUNTS:
        x = (x * 10).round()
    torch.manual_seed(0)
    model = pv.models.VAE((3, 8, 8), 2, name, NETWORKS[network])
    guide = pv.guides.Guide(model, network=NETWORKS[network])
    before = pv.evaluate.elbo(model, guide, x, 5).mean()
    with last_gradients() as gradients:
        pv.fit(model, guide, x, epochs=15, lr=5e-3, batch_size=24, progress=False)
    assert pv.evaluate.elbo(model, guide, x, 5).mean() > before + 5
    for p in (*model.parameters(), *guide.parameters()):
        assert torch.isfinite(gradients[p]).all()
    made = pv.sample(model, 4, seed=0)
    assert made.shape == (4, 3, 8, 8) and torch.isfinite(made).all()
    assert pv.evaluate.reconstruct(model, guide, x).shape == x.shape


@pytest.mark.parametrize(
    "name", covering(sorted(set(LIKELIHOODS) - {"bernoulli", "gray-bernoulli"}), every=3)
)
def test_the_recorded_step_gives_the_same_training_with_every_likelihood(name):
    x = color_images()
    if name in COUNTS:
        x = (x * 10).round()
    if name == "binomial":
        x = (x * 16).round() / 16

    def losses(compile):
        torch.manual_seed(0)
        model = pv.models.VAE((3, 8, 8), 2, name, MLP((8,)))
        guide = pv.guides.Guide(model, network=MLP((8,)))
        run = pv.fit(model, guide, x, 3, batch_size=12, compile=compile, progress=False)
        return torch.tensor([row["loss"] for row in run.history])

    torch.testing.assert_close(losses("recorded"), losses(False), rtol=1e-4, atol=1e-3)


def test_chunks_of_data_with_many_parameters_a_pixel_are_smaller():
    from pyro_vae.evaluate.chunked import rows_per_chunk

    def rows(name):
        model = pv.models.VAE((3, 16, 16), 2, name, MLP((8,)))
        x = torch.zeros(4, 3, 16, 16)
        return rows_per_chunk(model, pv.guides.Guide(model, network=MLP((8,))), {"x": x}, "cpu")

    assert rows("categorical") == rows("discretized-logistic") // 256


# ----------------------------------------------------------------------------- tabular data


def table(n=200):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(n, 1))
    x = z @ [[1000.0, 0.01, 3.0]] + rng.normal(size=(n, 3)) * [100, 0.001, 0.3] + [5000, 1, -2]
    return np.concatenate([x, np.full((n, 1), 7.0)], 1)


def test_standardized_columns_have_mean_zero_and_sd_one_on_the_training_split():
    data = pv.data.standardize(pv.data.from_arrays(table()))
    x = data.train.x
    torch.testing.assert_close(x.mean(0), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(x.std(0, correction=0)[:3], torch.ones(3), atol=1e-4, rtol=0)
    assert (x[:, 3] == 0).all()  # constant: only centered
    raw = pv.data.from_arrays(table())
    torch.testing.assert_close(data.unstandardize(data.test.x), raw.test.x, rtol=1e-4, atol=1e-4)
    assert data.describe()["standardized"] and "standardized" not in raw.describe()
    assert raw.unstandardize(raw.test.x) is raw.test.x
    for done in (data, pv.data.load("digits", binarize="static")):
        with pytest.raises(pv.UserError, match="binarized or standardized already"):
            pv.data.standardize(done)


def test_a_table_trains_from_the_command_line_and_samples_come_in_its_units(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("mine.npz", x=table())
    small = ["--epochs", "30", "--hidden", "[16]", "--latent_dim", "1", "--num_samples", "5"]
    options = [*small, "--lr", "1e-2", "--batch_size", "40", "--progress", "false"]
    assert main(["fit", "vae", "--data", "mine.npz", "--standardize", "true", *options]) == 0
    run = "runs/vae-mine-0"
    assert main(["sample", run, "--num", "400", "--mean", "false"]) == 0
    x = np.load(f"{run}/samples.npz")["x"]
    truth = table()
    assert x.shape == (400, 4)
    assert (np.abs(x.mean(0) - truth.mean(0))[:3] < 0.3 * truth.std(0)[:3]).all()
    assert np.corrcoef(x[:, :3].T)[0, 1] > 0.5  # one factor moves both
    for source in ("interpolate", "impute"):
        extra = ["--steps", "3", "--num", "2"]
        assert main(["sample", run, "--source", source, *extra]) == 0
        assert np.load(f"{run}/{source}.npz")["x"].shape[1:] == (4,)


def test_counts_train_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.savez("counts.npz", x=counts(100)[0].reshape(100, 1, 3, 4).numpy())
    options = ["--epochs", "2", "--hidden", "[8]", "--num_samples", "5", "--progress", "false"]
    assert main(["fit", "vae", "--data", "counts.npz", "--likelihood", "poisson", *options]) == 0
    np.savez("bytes.npz", x=counts(100)[0].numpy().clip(0, 255).astype(np.uint8))
    capsys.readouterr()
    assert main(["fit", "vae", "--data", "bytes.npz", "--likelihood", "poisson", *options]) == 1
    assert "8-bit integers are taken as gray levels" in capsys.readouterr().err


def test_counts_are_shown_on_a_stated_scale():
    x = torch.tensor([0.0, 5.0, 20.0, 40.0]).reshape(1, 1, 2, 2)
    assert plots.white_of(x) == 40 and plots.white_of(x / 40) == 1
    _, ax = plots.axes()
    plots.images(ax, x, white=40)
    assert ax.get_xlabel() == "black is 0, white 40 or more"
    np.testing.assert_allclose(ax.images[0].get_array()[..., 0], [[0, 0.125], [0.5, 1]])
    _, ax = plots.axes()
    plots.images(ax, x / 40)
    assert ax.get_xlabel() == ""
