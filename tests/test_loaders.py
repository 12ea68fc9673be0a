"""Loaders: batches of any kind to train on, validation on them, evaluation batch by batch."""

import math
import os
import random
import signal
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from problems import LINEAR, linear_marginal, linear_posterior_guide
from test_train import quiet, same_tensors, weights, without_seconds
from torch.utils.data import DataLoader, Dataset, RandomSampler, TensorDataset

import pyro_vae as pv
from pyro_vae.conditionals import MLP
from pyro_vae.data.minibatches import LoaderBatches

NET = MLP((8,))
X = torch.randn(41, 6, generator=torch.Generator().manual_seed(0))  # 5 batches of 8, and one row
VALID = torch.randn(17, 6, generator=torch.Generator().manual_seed(1))


def pair(seed=0):
    torch.manual_seed(seed)
    model = pv.models.VAE((6,), 2, "normal", NET)
    return model, pv.guides.Guide(model, network=NET)


def fit(programs, data, epochs=2, **options):
    return quiet(*programs, data, epochs, **{"batch_size": 8, "compile": False, **options})


def batches(x=X, size=8):
    return list(x.split(size))


class Rows(Dataset):
    """Rows with names, as image folders have them."""

    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return {"x": self.x[i], "path": f"image_{i}.png", "meta": {"index": i}, "weight": 1.0}


# ------------------------------------------------------------------- batches of any kind


@pytest.mark.filterwarnings("ignore:the batches have")
def test_batches_of_tensors_tuples_and_dicts_are_the_same_run():
    names = [f"row {i}" for i in range(len(X))]
    forms = {
        "tensors": batches(),
        "tuples": [(x, torch.zeros(len(x))) for x in batches()],
        "tuples with text": [(x, names[: len(x)]) for x in batches()],
        "longer tuples": [(x, [0] * len(x), "more", None) for x in batches()],
        "dicts": [{"x": x} for x in batches()],
        "dicts with text": [{"x": x, "path": names[: len(x)], "n": 3} for x in batches()],
        "arrays": [x.numpy() for x in batches()],
        "loader": DataLoader(TensorDataset(X), batch_size=8),
        "loader of dicts": DataLoader(Rows(X), batch_size=8),
        "loader with workers": DataLoader(Rows(X), batch_size=8, num_workers=2),
    }
    histories, states = {}, {}
    for name, form in forms.items():
        programs = pair()
        histories[name] = without_seconds(fit(programs, form).history)
        states[name] = weights(*programs)
    for name in forms:
        assert histories[name] == histories["tensors"]
        assert same_tensors(states[name], states["tensors"])


def test_entries_that_the_pair_does_not_take_are_named_once():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(pair(), DataLoader(Rows(X), batch_size=8))
    messages = [str(w.message) for w in caught if "not used" in str(w.message)]
    assert messages == [
        "the batches have 'path', 'meta', 'weight', which neither model nor guide takes: not used"
    ]


def test_entries_that_the_pair_takes_are_used():
    """A covariate that shifts x: its coefficient is learned from the dict's entry alone."""

    class Shift(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.slope = torch.nn.Parameter(torch.zeros(()))

        def forward(self, x, age):
            with pyro.plate("data", len(x)):
                loc = self.slope * age.unsqueeze(-1).expand(-1, 6)
                pyro.sample("x", dist.Normal(loc, 0.1).to_event(1), obs=x)

    age = torch.arange(40.0) / 40
    x = 3 * age.unsqueeze(-1).expand(-1, 6)
    rows = [{"x": x[i : i + 8], "age": age[i : i + 8], "id": "abcdefgh"} for i in range(0, 40, 8)]
    model = Shift()
    with pytest.warns(UserWarning, match="the batches have 'id'"):
        fit((model, lambda x, age: None), rows, 60, lr=0.1)
    assert model.slope.item() == pytest.approx(3, abs=1e-2)


def test_labels_of_an_objective_are_taken_from_dicts():
    torch.manual_seed(0)
    model = pv.models.M2((6,), 3, 2, "normal", NET)
    guide = pv.guides.Guide(model, network=NET)
    rows = [{"x": x, "y": torch.arange(len(x)) % 3, "path": "a" * len(x)} for x in batches()]
    objective = pv.objectives.SemiSupervised(labelled_fraction=1.0)
    with pytest.warns(UserWarning, match="the batches have 'path'"):
        run = fit((model, guide), rows, 3, objective=objective, lr=1e-2)
    assert run.history[-1]["loss"] < run.history[0]["loss"]


# ------------------------------------------------------------------- validation


def test_validation_arrays_are_a_validation_split():
    data = pv.data.Data(pv.data.Split(X), pv.data.Split(VALID))
    programs = pair()
    wanted = fit(programs, data)
    for valid in (VALID, VALID.numpy(), (VALID, torch.zeros(17, dtype=torch.int64)), {"x": VALID}):
        other = pair()
        run = fit(other, X, valid=valid)
        assert without_seconds(run.history) == without_seconds(wanted.history)
        assert same_tensors(weights(*programs), weights(*other))


class Exact(torch.nn.Module):
    """z ~ N(0, 1), x | z ~ N(mu, 1) with a guide that is the prior: the ELBO is log N(x; mu, 1)."""

    def __init__(self):
        super().__init__()
        self.mu = torch.nn.Parameter(torch.zeros(6))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(self.mu, 1.0).to_event(1), obs=x)


def prior_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))


def log_normal(x, mu):
    return dist.Normal(mu, 1.0).to_event(1).log_prob(x)


@pytest.mark.parametrize("form", ["list", "loader", "dicts", "workers", "arrays"])
def test_the_elbo_on_a_validation_loader_is_the_mean_over_its_data(form):
    valid = {
        "list": batches(VALID),  # 8, 8 and 1
        "loader": DataLoader(TensorDataset(VALID), batch_size=8, shuffle=True),
        "dicts": [{"x": x, "path": "p"} for x in batches(VALID)],
        "workers": DataLoader(Rows(VALID), batch_size=8, num_workers=1),
        "arrays": VALID,
    }[form]
    model = Exact()
    bounds = []
    run = quiet(
        model, prior_guide, batches(), 3, valid=valid, lr=0.05, compile=False,
        callbacks=[lambda run, metrics: bounds.append(float(log_normal(VALID, model.mu).mean()))],
    )  # fmt: skip
    assert [row["elbo"] for row in run.history] == pytest.approx(bounds, abs=1e-5)
    assert run.best_epoch == 1 + max(range(3), key=lambda i: bounds[i])


def test_patience_stops_on_a_validation_loader(tmp_path):
    far = [x + 5 for x in batches(VALID)]  # the longer mu is pulled to X, the worse
    run = quiet(Exact(), prior_guide, [X - 5], 50, valid=far, patience=3, lr=0.1, compile=False)
    assert run.best_epoch == 1 and len(run.history) == 4 and run.stop_reason == "patience"


def test_a_validation_batch_that_is_not_finite_is_an_error_with_its_site():
    valid = [VALID[:8], VALID[8:] * 1e30]  # whose squares are no floats
    with pytest.raises(
        pv.UserError, match="the validation ELBO is not finite at site 'x', epoch 1"
    ):
        quiet(Exact(), prior_guide, batches(), 1, valid=valid, compile=False)


@pytest.mark.parametrize(
    "valid, message",
    [
        ([VALID[:, :3]], "'x' has shape .*, but this model was built for"),
        (pv.data.from_arrays(VALID, valid=4, test=4), "valid takes arrays or a loader"),
        ("digits", "data cannot be a name"),
        ([], "there are no values in it"),
        ([torch.full((4, 6), math.nan)], "batch 1 of epoch 1: x has .*NaN"),
    ],
)
def test_validation_data_that_cannot_be_used_are_refused(valid, message):
    with pytest.raises(pv.UserError, match=message) as e:
        fit(pair(), batches(), valid=valid)
    assert "\n" not in str(e.value)


def test_two_validation_sets_and_a_patience_without_one_are_refused():
    data = pv.data.from_arrays(X, valid=8, test=0)
    with pytest.raises(pv.UserError, match="a validation split already: leave valid= out"):
        fit(pair(), data, valid=VALID)
    with pytest.raises(pv.UserError, match="no valid split: pass valid="):
        fit(pair(), batches(), patience=2)


def test_a_resumed_run_validates_on_its_loader_as_before(tmp_path):
    valid = DataLoader(TensorDataset(VALID), batch_size=8, shuffle=True)
    whole = fit(pair(), batches(), 4, valid=valid)
    fit(pair(), batches(), 2, valid=valid, out=tmp_path)
    resumed = fit(pair(), batches(), 4, valid=valid, out=tmp_path, resume=True)
    assert without_seconds(resumed.history) == without_seconds(whole.history)


# ------------------------------------------------------------------- evaluation over batches


def exact_pair():
    """A linear-Gaussian pair with the exact posterior: every bound is log p(x), whatever is drawn."""
    torch.manual_seed(0)
    likelihood = pv.conditionals.NormalLikelihood(scale=0.7, learned=False)
    model = pv.models.VAE((6,), 2, likelihood, LINEAR).double()
    return model, linear_posterior_guide(model, 0.7)


@pytest.mark.parametrize("function", [pv.evaluate.elbo, pv.evaluate.log_likelihood])
@pytest.mark.parametrize("form", ["list", "generator", "loader", "dicts", "array"])
def test_the_mean_over_batches_is_that_of_log_p_of_x(form, function):
    model, guide = exact_pair()
    forms = {
        "list": batches(),
        "generator": (x for x in batches()),
        "loader": DataLoader(TensorDataset(X), batch_size=8, shuffle=True),
        "dicts": DataLoader(Rows(X), batch_size=8, num_workers=1),
        "array": X,
    }
    log_p = linear_marginal(model, 0.7).log_prob(X.double())
    estimate = pv.evaluate.mean_over_batches(function, model, guide, forms[form], num_samples=2)
    assert estimate.num_data == 41
    assert estimate.mean == pytest.approx(float(log_p.mean()), abs=1e-6)
    assert estimate.standard_error == pytest.approx(float(log_p.std() / 41**0.5), rel=1e-6)


def test_a_single_batch_has_the_draws_of_the_evaluation_itself():
    programs = pair()
    for seed in (0, 3):
        direct = pv.evaluate.elbo(*programs, X, seed=seed).double().mean()
        estimate = pv.evaluate.mean_over_batches(pv.evaluate.elbo, *programs, [X], seed=seed)
        assert estimate.mean == pytest.approx(float(direct), abs=1e-9)


def test_terms_have_a_mean_each_and_the_random_stream_stays():
    programs = pair()
    state = torch.get_rng_state()
    terms = pv.evaluate.mean_over_batches(pv.evaluate.elbo_terms, *programs, batches())
    assert torch.equal(state, torch.get_rng_state())
    total = pv.evaluate.mean_over_batches(pv.evaluate.elbo, *programs, batches())
    assert set(terms) == {"x", "z"}
    assert terms["x"].mean + terms["z"].mean == pytest.approx(total.mean, abs=1e-4)
    assert str(total).endswith("(41 data points)") and "±" in str(total)


def test_values_far_from_zero_keep_their_variance():
    """The squares of such values would lose all digits of the variance."""
    mean = pv.evaluate.streaming.RunningMean()
    values = 1e8 + torch.arange(1000, dtype=torch.float64) / 1000
    for part in values.split(7):
        mean.add(part)
    estimate = mean.estimate()
    assert estimate.mean == pytest.approx(float(values.mean()), rel=1e-15)
    assert estimate.standard_error == pytest.approx(float(values.std() / 1000**0.5), rel=1e-6)


def test_an_evaluation_has_one_number_per_data_point():
    """The mean of another count would not be the mean over the data."""
    with pytest.raises(pv.UserError, match=r"one number per data point, \[10\], not \[\]"):
        pv.evaluate.mean_over_batches(lambda *pair, x, seed: x.mean(), *pair(), [torch.ones(10, 6)])


@pytest.mark.parametrize(
    "form, message",
    [
        ([], "there are no values in it"),
        (iter([]), "there are no batches to evaluate"),
        ([X, torch.full((2, 6), math.nan)], "batch 2: .*NaN"),
        ([X, X[:, :2]], "batch 2: 'x' has shape"),
        ([{"image": X}], "batch 1: a dict of arrays needs 'x'"),
        (pv.data.from_arrays(X, valid=8, test=0), "pass one split"),
    ],
)
def test_batches_that_cannot_be_evaluated_are_refused(form, message):
    with pytest.raises(pv.UserError, match=message) as e:
        pv.evaluate.mean_over_batches(pv.evaluate.elbo, *pair(), form)
    assert "\n" not in str(e.value)


# ------------------------------------------------------------------- a run on new data


def exact_run():
    model, guide = exact_pair()
    return pv.Run(model, guide, data=pv.data.from_arrays(X, valid=0, test=0)), model


@pytest.mark.parametrize("form", ["tensors", "tuples", "dicts", "workers", "array", "split"])
def test_a_run_evaluates_a_loader_batch_by_batch(form):
    """Every bound is log p(x) whatever is drawn: mean and standard error are those of the array."""
    run, model = exact_run()
    x = VALID
    names = [f"{i}.png" for i in range(8)]
    forms = {
        "tensors": batches(x),  # 8, 8 and 1
        "tuples": [(part, names[: len(part)]) for part in batches(x)],
        "dicts": [{"x": part, "path": names, "meta": {"n": 3}} for part in batches(x)],
        "workers": DataLoader(Rows(x), batch_size=8, num_workers=2),
        "array": x,
    }
    if form == "split":
        run.data = pv.data.Data(pv.data.Split(x), test=pv.data.Split(x), likelihood="normal")
        result = run.evaluate("test", num_samples=2)
    else:
        result = run.evaluate(data=forms[form], num_samples=2)
    log_p = linear_marginal(model, 0.7).log_prob(x.double())
    for bound in ("elbo", "log_likelihood"):
        assert result[bound] == pytest.approx(float(log_p.mean()), abs=1e-5)
        error = result["standard_errors"][bound]
        assert error == pytest.approx(float(log_p.std() / 17**0.5), rel=1e-5)
    codes = pv.evaluate.encode(run.model, run.guide, x)["z"]
    assert result["unit_activity"]["z"] == pytest.approx(codes.var(0).tolist(), rel=1e-6)
    assert (result["split"], result["data"]) == ("test" if form == "split" else "new", 17)
    assert f"standard error {result['standard_errors']['elbo']:.2g}" in str(result)


def test_a_loader_has_one_batch_in_memory_at_a_time(monkeypatch):
    run, _ = exact_run()
    sizes, elbo_terms = [], pv.evaluate.elbo_terms

    def recording(model, guide, x, **options):
        sizes.append(len(x))
        return elbo_terms(model, guide, x, **options)

    monkeypatch.setattr(pv.evaluate, "elbo_terms", recording)
    run.evaluate(data=batches(VALID), num_samples=2)
    assert sizes == [8, 8, 1]


def test_components_and_labels_of_a_loader_are_those_of_the_array():
    torch.manual_seed(0)
    model = pv.models.MixtureVAE((6,), 3, 2, likelihood="normal", network=NET)
    guide = pv.guides.Guide(model, given={"y": ["x"], "z": ["x", "y"]}, network=NET)
    y = torch.arange(17) % 3
    run = pv.Run(model, guide, data=pv.data.from_arrays(X, torch.arange(41) % 3, valid=0, test=0))
    parts = [{"x": x, "y": labels} for x, labels in zip(VALID.split(8), y.split(8), strict=True)]
    whole, streamed = (run.evaluate(data=d, num_samples=2) for d in ((VALID, y), parts))
    assert streamed["occupancy"] == pytest.approx(whole["occupancy"])
    for name, value in whole["discrete"].items():
        assert streamed["discrete"][name] == pytest.approx(value, abs=1e-6)
    assert streamed["clustering"] == {"this model": whole["clustering"]["this model"]}
    p = pv.evaluate.responsibilities(model, guide, VALID)
    assert whole["occupancy"] == pytest.approx(pv.evaluate.occupancy(p).tolist())
    information = pv.evaluate.mutual_information(p)
    assert whole["discrete"]["mutual_information"] == pytest.approx(information, abs=1e-6)


@pytest.mark.parametrize(
    "form, message",
    [
        ([], "there are no values in it"),
        ([X, X[:, :2]], "x has shape"),
        ([{"image": X}], "a dict of arrays needs 'x'"),
        ([X, torch.full((2, 6), math.inf)], "batch 2 of epoch 1: x has"),
    ],
)
def test_a_loader_that_a_run_cannot_evaluate_is_refused(form, message):
    with pytest.raises(pv.UserError, match=message) as e:
        exact_run()[0].evaluate(data=form, num_samples=2)
    assert "\n" not in str(e.value)


# ------------------------------------------------------------ loaders with their own randomness


class Augmented(Dataset):
    """Rows with noise from the global streams of numpy and Python."""

    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        return X[i] + np.float32(np.random.randn()) + random.random()


def own_generator(data, kind=DataLoader):
    return kind(data, 8, shuffle=True, generator=torch.Generator().manual_seed(5))


def own_sampler(data, kind=DataLoader):
    sampler = RandomSampler(data, generator=torch.Generator().manual_seed(5))
    return kind(data, 8, sampler=sampler)


class Interrupted(DataLoader):
    """Ctrl-C at the second epoch's third batch."""

    epochs = 0

    def __iter__(self):
        self.epochs += 1
        for number, batch in enumerate(super().__iter__(), 1):
            if (self.epochs, number) == (3, 3):  # the first pass is a look at a batch
                os.kill(os.getpid(), signal.SIGINT)
            yield batch


@pytest.mark.parametrize("loader", [own_generator, own_sampler])
@pytest.mark.parametrize("data", [TensorDataset(X), Augmented()], ids=["tensors", "augmented"])
def test_a_run_continues_on_a_loader_with_its_own_randomness(loader, data, tmp_path):
    whole = fit(pair(), loader(data), epochs=4, seed=3)
    options = {"seed": 3, "out": tmp_path / "run", "epochs": 4}
    first = fit(pair(), loader(data, Interrupted), **options)
    assert first.interrupted and len(first.history) == 1
    np.random.seed(11)
    random.seed(12)
    rest = fit(pair(), loader(data), resume=True, **options)
    assert [row["loss"] for row in rest.history] == [row["loss"] for row in whole.history]


def test_a_run_leaves_the_streams_of_a_loader_as_they_were():
    generator = torch.Generator().manual_seed(5)
    loader = DataLoader(Augmented(), 8, shuffle=True, generator=generator)
    np.random.seed(1)
    random.seed(2)
    before = generator.get_state(), np.random.get_state()[1].copy(), random.getstate()
    fit(pair(), loader, epochs=1)
    assert torch.equal(generator.get_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all() and random.getstate() == before[2]


def test_between_two_batches_the_streams_are_the_callers():
    """Also where an iteration is given up, whenever its generator is closed."""
    given_up = LoaderBatches(own_generator(Augmented()), "cpu").epoch(0)
    whole = [batch["x"] for batch in LoaderBatches(own_generator(Augmented()), "cpu").epoch(0)]
    next(given_up)
    seen = []
    for number, batch in enumerate(LoaderBatches(own_generator(Augmented()), "cpu").epoch(0)):
        np.random.seed(number)
        random.seed(number)
        seen.append(batch["x"])
        if number == 2:
            given_up.close()
        assert random.getstate() == random.Random(number).getstate()
    assert torch.equal(torch.cat(seen), torch.cat(whole))
