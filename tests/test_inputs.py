"""What evaluators and `fit` are given: converted without a loss, checked in one place, by name."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pyro_vae as pv
from pyro_vae import diagnostics, evaluate
from pyro_vae.conditionals import MLP
from pyro_vae.evaluate.support import Support

N, D = 12, 6
SMALL = MLP((8,))


def pair(likelihood="normal", model=pv.models.VAE, **options):
    torch.manual_seed(0)
    model = model((D,), latent_dim=2, network=SMALL, likelihood=likelihood, **options)
    return model, pv.guides.Guide(model, network=SMALL)


def gray(seed=1):
    return torch.rand(N, D, generator=torch.Generator().manual_seed(seed))


class Frame:
    """What a DataFrame is here: columns, a length, and `to_numpy`."""

    def __init__(self, array):
        self.array = array

    def __len__(self):
        return len(self.array)

    def to_numpy(self):
        return self.array


# ------------------------------------------------------- the same numbers, whatever carries them

CARRIERS = {
    "float64": lambda x: x.double(),
    "numpy": lambda x: x.numpy(),
    "numpy float64": lambda x: x.double().numpy(),
    "big endian": lambda x: x.numpy().astype(">f4"),
    "negative strides": lambda x: x.flip(0).numpy()[::-1],
    "read only": lambda x: np.broadcast_to(x.numpy(), x.shape),
    "unmasked": lambda x: np.ma.array(x.numpy()),
    "lists": lambda x: x.tolist(),
    "rows": lambda x: list(x),
    "frame": lambda x: Frame(x.double().numpy()),
    "objects": lambda x: x.double().numpy().astype(object),
}


@pytest.mark.parametrize("carrier", CARRIERS)
def test_the_carrier_of_x_does_not_change_an_evaluator(carrier):
    model, guide = pair()
    x, carried = gray(), CARRIERS[carrier](gray())
    for function in (
        evaluate.elbo,
        evaluate.log_likelihood,
        lambda *a: evaluate.encode(*a)["z"],
        evaluate.reconstruct,
        lambda m, _, x: diagnostics.ais(m, x, num_steps=3, num_chains=2),
    ):
        options = {"num_samples": 5} if function is evaluate.log_likelihood else {}
        actual = function(model, guide, carried, **options)
        assert actual.dtype == torch.float32
        assert torch.equal(actual, function(model, guide, x, **options))


@pytest.mark.parametrize(
    "carrier", sorted(set(CARRIERS) - {"rows"})
)  # a list of tensors is batches
def test_the_carrier_of_x_does_not_change_training(carrier):
    losses = []
    for x in (gray(), CARRIERS[carrier](gray())):
        run = pv.fit(*pair(), x, 2, progress=False, compile=False)
        losses.append([row["loss"] for row in run.history])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint8, torch.bool])
def test_whole_numbers_are_scored_as_floats(dtype):
    model, guide = pair("bernoulli")
    x = (gray() > 0.5).to(dtype)
    as_floats = x.float() / (255 if dtype == torch.uint8 else 1)
    if dtype == torch.uint8:  # 8-bit integers are gray levels
        x, as_floats = 255 * x, (255 * x).float() / 255
    for bound in (evaluate.elbo, evaluate.log_likelihood):
        actual = bound(model, guide, x, num_samples=5)
        assert actual.is_floating_point()
        assert torch.equal(actual, bound(model, guide, as_floats, num_samples=5))


def test_half_precision_data_have_bounds_of_the_models_precision():
    model, guide = pair()
    x = gray().half()
    assert torch.equal(evaluate.elbo(model, guide, x), evaluate.elbo(model, guide, x.float()))
    assert evaluate.log_likelihood(model, guide, x, num_samples=3).dtype == torch.float32


def test_a_float64_model_takes_float32_numbers():
    model, guide = (m.double() for m in pair())
    x = gray()
    assert evaluate.elbo(model, guide, x).dtype == torch.float64
    assert torch.equal(evaluate.elbo(model, guide, x.double()), evaluate.elbo(model, guide, x))
    pv.fit(model, guide, x, 1, progress=False, compile=False)


def test_a_float64_default_dtype_changes_no_float32_pair():
    model, guide = pair()
    x = gray().numpy()
    expected = evaluate.elbo(model, guide, x)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(evaluate.elbo(model, guide, x), expected)
        pv.fit(model, guide, x, 1, progress=False, compile=False)
        pv.fit(model, guide, [torch.tensor(x)], 1, progress=False, compile=False)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float64])
def test_a_loader_trains_on_the_numbers_that_an_array_has(dtype):
    """Up to the noise, which falls on other rows: a factor of 255 would show."""
    x = (255 * gray()).round().to(dtype)
    x = x / 255 if dtype == torch.float64 else x
    losses = []
    for data in (x, DataLoader(TensorDataset(x), batch_size=N)):
        run = pv.fit(*pair(), data, 1, progress=False, compile=False, batch_size=N)
        (row,) = run.history
        losses.append(row["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=0.2)


@pytest.mark.parametrize(
    "x, message",
    [
        (gray().to_sparse(), "sparse or nested"),
        (gray().to(torch.complex64), "complex"),
        (gray().numpy() + 1j, "complex"),
        (np.ma.masked_less(gray().numpy(), 0.5), "masked array with .* masked values"),
        ((60_000 * gray().numpy()).astype("uint16"), "16-bit .* x / 65535"),
        (torch.full((N, D), 2**24 + 1), "whole numbers up to 16777217, which float32 cannot"),
        (np.full((N, D), "a"), "must be an array of numbers; it has text"),
        (np.full((N, D), None), "must be an array of numbers; it has object"),
        ([[1.0, 2.0], [3.0]], "rows of different lengths"),
        (torch.zeros(0, D), "x is empty"),
        (torch.tensor(1.0), "x is a number"),
        (
            torch.zeros(N, D - 1),
            r"'x' has shape \[12, 5\], but this model was built for \[..., 6\]",
        ),
        (gray() / 0, "x has 72 NaN or infinite values"),
        (pv.data.from_arrays(gray()).test, "not a Split of pv.data: .* such as data.test.x"),
    ],
)
def test_what_would_lose_something_is_refused(x, message):
    model, guide = pair()
    for function in (evaluate.elbo, evaluate.encode, pv.check_pair):
        with pytest.raises(pv.UserError, match=message) as error:
            function(model, guide, x)
        assert "\n" not in str(error.value)


def test_the_largest_whole_numbers_that_a_dtype_holds_are_taken():
    model, guide = pair()
    evaluate.encode(model, guide, torch.full((N, D), 2**24))
    evaluate.encode(model.double(), guide.double(), torch.full((N, D), 2**30))


# --------------------------------------------------------------------- support, wherever scored

SCORES = {
    "elbo": evaluate.elbo,
    "elbo_terms": evaluate.elbo_terms,
    "log_likelihood": evaluate.log_likelihood,
    "importance_weights": diagnostics.importance_weights,
    "diagnostics": diagnostics.importance_diagnostics,
    "inference_gaps": diagnostics.inference_gaps,
    "ais": lambda model, guide, x: diagnostics.ais(model, x),
    "nuts": lambda model, guide, x: diagnostics.nuts_posterior(model, x),
    "posterior_grid": lambda model, guide, x: diagnostics.posterior_grid(model, x),
}


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("likelihood, bad", [("bernoulli", 0.5), ("bernoulli", 2), ("poisson", -1)])
def test_a_value_outside_of_the_support_has_no_score(score, likelihood, bad):
    model, guide = pair(likelihood)
    x = torch.ones(N, D)
    x[N - 1, D - 1] = bad  # in the last row, of which no run of the first ones knows
    with pytest.raises(pv.UserError, match=f"x has values outside the support .* {bad}"):
        SCORES[score](model, guide, x)


def test_encoding_needs_no_support():
    model, guide = pair("bernoulli")
    assert evaluate.encode(model, guide, gray())["z"].shape == (N, 2)


def test_a_stated_gray_bernoulli_has_a_score_and_no_likelihood():
    model, guide = pair("gray-bernoulli")
    x = gray()
    assert not evaluate.has_proper_likelihood(model, guide, x)
    assert torch.isfinite(evaluate.elbo(model, guide, x)).all()
    for score in ("log_likelihood", "importance_weights", "ais", "inference_gaps"):
        with pytest.raises(pv.UserError, match="gray values in a Bernoulli"):
            SCORES[score](model, guide, x)


def standard(x):
    return dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1)


def z_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", standard(x))


def test_trials_of_each_datum_are_compared_row_by_row():
    trials = torch.arange(1.0, N + 1)

    def model(x):
        trials, value = x.T
        with pyro.plate("data", len(x)):
            pyro.sample("z", standard(x))
            pyro.sample("obs", dist.Binomial(trials, torch.full_like(trials, 0.5)), obs=value)

    x = torch.stack([trials, trials], 1)  # all succeed
    exact = -trials * torch.log(torch.tensor(2.0))
    torch.testing.assert_close(evaluate.elbo(model, z_guide, x), exact)
    x[-1, 1] += 1
    with pytest.raises(pv.UserError, match="obs has values outside the support .* Binomial"):
        evaluate.elbo(model, z_guide, x)


def test_a_number_of_trials_read_off_the_batch_refuses_no_datum():
    """ProdLDA's habit: the first rows' largest total is not that of all."""

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", standard(x))
            total = int(x.sum(-1).max())
            fn = dist.Multinomial(total, torch.full((D,), 1 / D), validate_args=False)
            pyro.sample("obs", fn, obs=x)

    x = torch.arange(N).float().unsqueeze(1).expand(N, D).contiguous()
    assert torch.isfinite(evaluate.elbo(model, z_guide, x)).all()


def test_what_a_model_makes_of_x_is_what_must_be_in_the_support():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", standard(x))
            fn = dist.Bernoulli(torch.full((D,), 0.5), validate_args=False).to_event(1)
            pyro.sample("obs", fn, obs=(x > 0.5).float())

    expected = torch.full((N,), -D * float(torch.log(torch.tensor(2.0))))
    torch.testing.assert_close(evaluate.elbo(model, z_guide, gray()), expected)


def test_masked_values_may_lie_anywhere():
    """Missing values: marked by -1, masked in the likelihood."""

    def model(x):
        seen = x >= 0
        with pyro.plate("data", len(x)):
            pyro.sample("z", standard(x))
            fn = dist.Bernoulli(torch.full((D,), 0.5), validate_args=False).mask(seen).to_event(1)
            pyro.sample("obs", fn, obs=x)

    x = (gray() > 0.5).float()
    x[:, :2] = -1
    expected = torch.full((N,), -(D - 2) * float(torch.log(torch.tensor(2.0))))
    torch.testing.assert_close(evaluate.elbo(model, z_guide, x), expected)
    x[3, 4] = 0.5
    with pytest.raises(pv.UserError, match="obs has values outside the support"):
        evaluate.elbo(model, z_guide, x)


def test_a_transformed_laws_support_is_its_own():
    """LogNormal is a transformed Normal: its support is not the normal's."""

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", standard(x))
            pyro.sample("obs", dist.LogNormal(torch.zeros(D), 1.0).to_event(1), obs=x)

    assert torch.isfinite(evaluate.elbo(model, z_guide, gray())).all()
    with pytest.raises(pv.UserError, match="outside the support of its LogNormal"):
        evaluate.elbo(model, z_guide, -gray())


def test_every_observed_site_is_compared():
    def model(x, w):
        with pyro.plate("data", len(x)):
            pyro.sample("z", standard(x))
            pyro.sample("x", dist.Normal(torch.zeros(D), 1.0).to_event(1), obs=x)
            pyro.sample("w", dist.Poisson(torch.ones(len(x))), obs=w)

    w = torch.zeros(N)
    assert torch.isfinite(evaluate.elbo(model, z_guide, gray(), w=w)).all()
    w[7] = -1
    with pytest.raises(pv.UserError, match="w has values outside the support of its Poisson"):
        evaluate.log_likelihood(model, z_guide, gray(), w=w)


def test_a_program_of_a_fixed_size_is_checked_with_all_its_rows():
    def model(x):
        with pyro.plate("data", N):
            z = pyro.sample("z", dist.Normal(torch.zeros(N, 2), 1.0).to_event(1))
            logits = (z[:, :1] + x.sum(-1, keepdim=True)).expand(N, D)  # N rows against N rows
            pyro.sample("x", dist.Bernoulli(logits=logits, validate_args=False).to_event(1), obs=x)

    x = torch.ones(N, D)
    Support(model, z_guide, {"x": x}).check({"x": x})
    x[-1, 0] = 0.5
    with pytest.raises(pv.UserError, match="outside the support"):
        Support(model, z_guide, {"x": x}).check({"x": x})


# ------------------------------------------------------------------ factors, deterministic values


def scored_model(x, factor=False):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", standard(x))
        pyro.deterministic("twice", 2 * z)
        if factor:
            pyro.factor("penalty", -z.sum(-1))
        pyro.sample("x", dist.Normal(torch.zeros(D), 1.0).to_event(1), obs=x)


def test_a_factor_is_no_likelihood():
    def with_factor(x):
        scored_model(x, factor=True)

    x = gray()
    assert evaluate.has_proper_likelihood(scored_model, z_guide, x)
    assert not evaluate.has_proper_likelihood(with_factor, z_guide, x)
    for score in ("log_likelihood", "importance_weights", "ais"):
        with pytest.raises(pv.UserError, match="a pyro.factor, 'penalty'"):
            SCORES[score](with_factor, z_guide, x)


def test_deterministic_and_factor_sites_are_no_data():
    from pyro_vae.programs.inspection import sites_of

    def with_factor(x):
        scored_model(x, factor=True)

    data, latents = sites_of(with_factor, {"x": gray()})
    assert list(data) == ["x"] and list(latents) == ["z"]
    pv.check_pair(scored_model, z_guide, gray())


# ------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    "name, message", [("lables", "did you mean 'labels'"), ("foo", "known: x, index, labels")]
)
def test_an_unknown_name_is_refused_with_the_nearest(name, message):
    def model(x, labels=None):
        scored_model(x)

    x, others = gray(), {name: torch.zeros(N)}
    for function in (evaluate.elbo, evaluate.log_likelihood, evaluate.encode, pv.check_pair):
        with pytest.raises(
            pv.UserError, match=f"neither model nor guide takes '{name}'; {message}"
        ):
            function(model, z_guide, x, **others)
    with pytest.raises(pv.UserError, match=f"the model does not take '{name}'; {message}"):
        diagnostics.ais(model, x, **others)


def test_labels_given_to_a_pair_without_any_are_refused():
    """`Guide.forward` names y for every model: what counts is the factorization."""
    model, guide = pair()
    for y_guide in (guide, pv.guides.PriorGuide(model), pv.guides.SemiAmortized(model, guide)):
        with pytest.raises(pv.UserError, match="neither model nor guide takes 'y'"):
            evaluate.elbo(model, y_guide, gray(), y=torch.zeros(N).long())


def test_observed_labels_are_whole_numbers_or_one_hot_rows():
    model, guide = pair(model=pv.models.M2, num_classes=3)
    x, y = gray(), torch.arange(N) % 3
    rows = torch.eye(3)[y]
    expected = evaluate.elbo(model, guide, x, y=rows)
    for given in (y, y.tolist(), y.to(torch.uint8), y.double(), rows.long(), rows.bool()):
        assert torch.equal(evaluate.elbo(model, guide, x, y=given), expected)
    for given, message in (
        (torch.ones(N, 3), "rows that are not one-hot"),
        (torch.full((N, 3), 1 / 3), "rows that are not one-hot"),
        (torch.full((N,), 0.5), "labels must be whole numbers"),
        (torch.eye(4)[y], r"one-hot rows \[N, 3\] to be observed, not of shape \[12, 4\]"),
        (y + 1, r"labels must lie in 0\.\.2 to be observed; found 1\.\.3"),
    ):
        with pytest.raises(pv.UserError, match=message):
            evaluate.elbo(model, guide, x, y=given)


# ----------------------------------------------------------------------------- arrays by name


def conditional_pair():
    """A user's program: its x is `xs`, and the guide reads one-hot `ys`."""
    torch.manual_seed(0)
    decoder, encoder = nn.Linear(2, D), nn.Linear(D + 3, 2)

    def model(xs, ys):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(xs)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(xs), 2), 1.0).to_event(1))
            pyro.sample("obs", dist.Normal(decoder(z), 1.0).to_event(1), obs=xs)

    def guide(xs, ys):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(xs)):
            mean = encoder(torch.cat([xs, ys], -1))
            pyro.sample("z", dist.Normal(mean, 1.0).to_event(1))

    return model, guide


YS = torch.eye(3)[torch.arange(N) % 3]


@pytest.mark.parametrize("name", ["x", "xs"])
def test_arrays_by_name_reach_the_arguments_of_that_name(name):
    model, guide = conditional_pair()
    seen = []

    def recording(xs, ys):
        seen.append((xs, ys))
        guide(xs, ys)

    data = {name: gray(), "ys": YS}
    pv.fit(model, recording, data, 1, batch_size=5, progress=False, compile=False)
    pyro.clear_param_store()
    assert {len(xs) for xs, _ in seen} >= {5, 2}  # two whole batches, and what is left
    for xs, ys in seen:  # each row of xs with the ys of its own
        rows = (xs.unsqueeze(1) == gray()).all(-1).nonzero()[:, 1]
        assert torch.equal(ys, YS[rows])


def test_a_loader_of_dicts_trains_by_name():
    model, guide = conditional_pair()
    rows = [{"xs": a, "ys": b} for a, b in zip(gray(), YS, strict=True)]
    run = pv.fit(model, guide, DataLoader(rows, 4), 1, progress=False, compile=False)
    assert run.history[0]["steps"] == 3
    with pytest.raises(
        pv.UserError, match="neither model nor guide takes 'yss'; did you mean 'ys'"
    ):
        rows = [{"xs": a, "yss": b} for a, b in zip(gray(), YS, strict=True)]
        pv.fit(model, guide, DataLoader(rows, 4), 1, progress=False)


def test_named_arrays_are_validated_and_compared_by_name():
    data = pv.data.from_arrays({"x": gray(), "ys": YS}, valid=4, test=4)
    model, guide = conditional_pair()
    run = pv.fit(model, guide, data, 1, progress=False, compile=False)
    valid = data.valid
    with torch.no_grad():
        expected = evaluate.elbo(model, guide, valid.x, seed=0, ys=valid.others["ys"]).mean()
    assert run.history[0]["elbo"] == pytest.approx(float(expected))
    actual = pv.compare(
        {"m": lambda: model}, {"g": lambda model: guide}, data, seeds=1, epochs=1, num_samples=30,
        num_gap_data=0, progress=False,
    )  # fmt: skip
    test = data.test
    expected = evaluate.elbo(model, guide, test.x, num_samples=400, ys=test.others["ys"]).mean()
    assert actual.rows[0]["elbo"] == pytest.approx(float(expected), abs=0.5)


def test_arrays_that_only_the_guide_takes_are_compared_too():
    """With the model frozen, gaps and AIS: the model is called without them."""
    decoder = nn.Linear(2, D)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            pyro.sample(
                "obs", dist.Normal(decoder(pyro.sample("z", standard(x))), 1).to_event(1), obs=x
            )

    _, guide = conditional_pair()
    actual = pv.compare(
        {"m": lambda: model}, {"g": lambda model: guide}, {"x": gray(), "ys": YS}, seeds=1, epochs=1,
        share_model=True, base_guide="g", num_samples=30, num_gap_data=2, progress=False,
        gap_options={"max_steps": 50, "num_samples": 10, "annealing": {"num_steps": 5}},
    )  # fmt: skip
    row = actual.rows[0]
    assert row["log_likelihood"] >= row["elbo"] - 1
    pyro.clear_param_store()


def test_a_number_for_each_datum_is_data():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(pyro.param("m", torch.tensor(0.0)), 1.0))
            pyro.sample("obs", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))

    x = torch.linspace(-2, 2, N)
    exact = dist.Normal(0.0, 2**0.5).log_prob(x)
    torch.testing.assert_close(evaluate.elbo(model, guide, x), exact, rtol=1e-4, atol=1e-5)
    assert pv.fit(model, guide, {"x": x}, 1, progress=False, compile=False).history
    pyro.clear_param_store()


# ---------------------------------------------------------------------------- batches of a loader


def test_a_bad_batch_of_a_loader_is_named():
    binary = (gray() > 0.5).float()
    for bad, message in ((float("nan"), "x has 1 NaN"), (0.5, "x has values outside the support")):
        x = binary.clone()
        x[9, 1] = bad
        model, guide = pair("bernoulli")
        loader = DataLoader(TensorDataset(x), batch_size=4)
        with pytest.raises(pv.UserError, match=f"batch 3 of epoch 1: {message}"):
            pv.fit(model, guide, loader, 1, progress=False, compile=False)


def test_a_batch_of_another_shape_is_named():
    """Also where the numbers of all its rows would fill rows of the right length."""
    model, guide = pair()
    for rows in (4, 6):  # 4 x 5 or 6 x 5 numbers
        batches = [gray(), gray()[:rows, :5]]
        with pytest.raises(pv.UserError, match=rf"batch 2 of epoch 1: 'x' has shape \[{rows}, 5\]"):
            pv.fit(model, guide, batches, 1, progress=False, compile=False)


def test_a_users_program_may_take_batches_of_any_shape():
    """Its support is compared in every shape."""
    mean = nn.Linear(1, 1)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            probs = torch.sigmoid(mean(z[:, None])).expand(x.shape)
            pyro.sample("x", dist.Bernoulli(probs).to_event(1), obs=x)

    def guide(x):
        pyro.module("mean", mean)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.mean(-1), 1.0))

    good = [torch.ones(4, 6), torch.zeros(4, 5)]
    assert pv.fit(model, guide, good, 1, progress=False, compile=False).history
    good[1][3, 4] = 0.5
    with pytest.raises(pv.UserError, match="batch 2 of epoch 1: x has values outside the support"):
        pv.fit(model, guide, good, 1, progress=False, compile=False)
    pyro.clear_param_store()


def test_a_bad_label_of_a_loader_is_named():
    model, guide = pair(model=pv.models.M2, num_classes=3)
    y = torch.arange(N) % 3
    y[10] = 3
    loader = DataLoader(TensorDataset(gray(), y), batch_size=4)
    with pytest.raises(pv.UserError, match=r"batch 3 of epoch 1: labels must lie in 0\.\.2"):
        pv.fit(model, guide, loader, 1, observed=("x", "y"), progress=False, compile=False)


def test_pyros_own_loss_agrees_on_named_arrays():
    model, guide = conditional_pair()
    x = gray()
    loss = Trace_ELBO(num_particles=300, vectorize_particles=False).loss
    torch.manual_seed(0)
    pyros = -loss(model, guide, x, YS) / N
    ours = evaluate.elbo(model, guide, x, num_samples=2000, ys=YS).mean()
    assert float(ours) == pytest.approx(pyros, abs=0.2)
    pyro.clear_param_store()


def test_an_input_named_size_raises_an_error_that_says_why():
    def model(x, size):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + size, 1.0), obs=x)

    def guide(x, size):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    x, size = torch.randn(5), torch.randn(5)
    with pytest.raises(pv.UserError, match="'size' is the number of samples"):
        pv.evaluate.elbo(model, guide, x, size=size)
    with pytest.raises(pv.UserError, match="'size' is the number of samples"):
        pv.fit(model, guide, {"x": x, "size": size}, epochs=1, progress=False)


# ------------------------------------------------------------------------------------- seeds

BAD_SEEDS = ["a", 1.5, True, -1, 2**64, torch.tensor(3)]
ROWS = torch.rand(20, D, generator=torch.Generator().manual_seed(2))
SEEDED = {
    "sample": lambda seed: pv.sample(pair()[0], 2, seed=seed),
    "elbo": lambda seed: evaluate.elbo(*pair(), gray(), seed=seed),
    "log_likelihood": lambda seed: evaluate.log_likelihood(*pair(), gray(), 2, seed=seed),
    "ais": lambda seed: diagnostics.ais(pair()[0], gray(), num_chains=2, num_steps=2, seed=seed),
    "ex post": lambda seed: evaluate.fit_ex_post_prior(
        *pair(), gray(), num_components=1, seed=seed
    ),
    "two samples": lambda seed: evaluate.mmd_two_sample_test(ROWS, ROWS, 9, seed=seed),
    "baselines": lambda seed: evaluate.clustering_baselines(ROWS, ROWS, 2, seed=seed),
    "split": lambda seed: pv.data.from_arrays(ROWS, split_seed=seed),
    "binarization": lambda seed: pv.data.from_arrays(ROWS, binarize="static", binarize_seed=seed),
    "labels": lambda seed: pv.data.from_arrays(ROWS, torch.arange(20) % 2).keep_labels(
        2, seed=seed
    ),
    "load": lambda seed: pv.data.load("digits", label_seed=seed),
}


@pytest.mark.parametrize("name", SEEDED)
def test_a_seed_is_an_integer_in_range(name):
    """An integer of numpy is the same seed; everything else that is no seed gives one line."""
    for seed in BAD_SEEDS:
        with pytest.raises(pv.UserError, match=r"seed must be an integer in 0\.\.2\*\*") as error:
            SEEDED[name](seed)
        assert "\n" not in str(error.value)
    a, b = SEEDED[name](3), SEEDED[name](np.int64(3))
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    if isinstance(a, pv.data.Data):
        assert torch.equal(a.train.x, b.train.x) and a.describe() == b.describe()


@pytest.mark.parametrize("labels", [(), (torch.arange(4),)])
def test_a_dataset_in_an_arrays_place_is_one_line(labels):
    """numpy would take its items as rows: one axis too many."""
    x = torch.rand(4, 6)
    model = pv.models.VAE((6,), 2, "normal")
    guide = pv.guides.Guide(model)
    dataset = TensorDataset(x, *labels)
    for function in (evaluate.elbo, evaluate.log_likelihood, evaluate.encode, evaluate.reconstruct):
        for wrong in (dataset, DataLoader(dataset)):
            with pytest.raises(
                pv.UserError, match="x must be an array of numbers, not a "
            ) as error:
                function(model, guide, wrong)
            assert "\n" not in str(error.value)
    torch.testing.assert_close(pv.data.as_data(dataset).train.x, x)


@pytest.mark.parametrize("kind", ["array", "loader"])
def test_data_with_a_graph_are_data_and_are_not_trained(kind):
    """A loader's features had trained the network that made them, and a leaf had been changed."""
    torch.manual_seed(0)
    features, raw = torch.nn.Linear(4, 3), torch.randn(32, 4)
    leaf = torch.randn(32, 3, requires_grad=True)
    before = features.weight.clone(), leaf.detach().clone()
    for data in (leaf, features(raw)):
        model = pv.models.VAE((3,), 2, likelihood="normal", network=pv.conditionals.MLP((8,)))
        guide = pv.guides.Guide(model, network=pv.conditionals.MLP((8,)))
        passed = [data[:16], data[16:]] if kind == "loader" else data
        run = pv.fit(model, guide, passed, 2, lr=0.1, progress=False)
        assert math.isfinite(run.history[-1]["loss"])
    assert torch.equal(features.weight, before[0]) and torch.equal(leaf, before[1])
    assert features.weight.grad is None and leaf.grad is None
    clusters = pv.evaluate.clustering_baselines(leaf, features(raw), 2)
    assert set(map(len, clusters.values())) == {32}
