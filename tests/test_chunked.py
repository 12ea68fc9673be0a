"""Evaluation in chunks: values, seed, mode and memory; and the inputs that a pair takes."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae as pv
from pyro_vae.comparison.evaluation import x_and_inputs
from pyro_vae.conditionals import MLP
from pyro_vae.evaluate import chunked
from pyro_vae.evaluate.chunked import evaluate_in_chunks
from pyro_vae.evaluate.inputs import split_inputs
from pyro_vae.report import summary

N = 11
NET = MLP((4,))
ROW = 32 * 512  # bytes that one row of a small pair is taken to need


def model(x):
    """z ~ N(0, 1); x | z ~ N(z, 1): x ~ N(0, 2), and z | x ~ N(x / 2, 1 / 2)."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def exact_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, math.sqrt(0.5)))


def data():
    return torch.linspace(-2, 3, N, dtype=torch.float64)


def small_pair():
    torch.manual_seed(0)
    vae = pv.models.VAE((6,), latent_dim=2, network=NET)
    return vae, pv.guides.Guide(vae, network=NET)


@pytest.fixture(params=[1, 6, 10_000])
def rows(request, monkeypatch):
    """The number of rows that fit in memory."""
    monkeypatch.setattr(chunked, "MEMORY_BUDGET", ROW * request.param)
    return request.param


# --------------------------------------------------------------------------- values


def test_the_chunk_size_changes_no_value_of_an_exact_pair(rows):
    """With the exact posterior every draw gives log p(x), and every mean is x / 2."""
    x = data()
    evidence = dist.Normal(0.0, math.sqrt(2.0)).log_prob(x)
    torch.testing.assert_close(pv.evaluate.elbo(model, exact_guide, x), evidence)
    bound = pv.evaluate.log_likelihood(model, exact_guide, x, num_samples=5)
    torch.testing.assert_close(bound, evidence)
    weights = pv.diagnostics.importance_weights(model, exact_guide, x, num_samples=5)
    torch.testing.assert_close(weights, evidence.expand(5, N))
    torch.testing.assert_close(pv.evaluate.encode(model, exact_guide, x)["z"], x / 2)
    annealed = pv.diagnostics.ais(model, x, exact_guide, num_steps=2, num_chains=2)
    torch.testing.assert_close(annealed, evidence)


def test_chunks_are_all_rows_in_order_and_fit_in_memory(rows):
    batch, sizes = {"x": data()}, []

    def function(chunk, capacity):
        sizes.append(len(chunk["x"]))
        assert len(chunk["x"]) == 1 or len(chunk["x"]) * 2 <= rows
        assert capacity == rows // len(chunk["x"])
        return {"rows": chunk["x"], "columns": chunk["x"].expand(2, -1)}

    for dim, name in ((0, "rows"), (1, "columns")):
        result = evaluate_in_chunks(
            lambda *args, name=name: {name: function(*args)[name]},
            model, exact_guide, batch, seed=0, num_particles=2, dim=dim,
        )  # fmt: skip
        torch.testing.assert_close(result[name], data().expand_as(result[name]))
    assert sizes == 2 * {1: [1] * N, 6: [3, 3, 3, 2], 10_000: [N]}[rows]


def test_a_pair_that_cannot_be_divided_has_one_chunk(monkeypatch):
    monkeypatch.setattr(chunked, "MEMORY_BUDGET", ROW)
    loc = torch.linspace(-1, 1, N, dtype=torch.float64)

    def guide(x):  # one row per data point, in order
        with pyro.plate("data", N):
            pyro.sample("z", dist.Normal(loc, 1.0))

    torch.testing.assert_close(pv.evaluate.encode(model, guide, data())["z"], loc)


# ------------------------------------------------------------- seed, mode and gradients


def test_the_global_seed_is_untouched_and_the_given_one_repeats():
    vae, guide = small_pair()
    x, before = torch.ones(N, 6), torch.get_rng_state()
    a, b, c = (pv.evaluate.elbo(vae, guide, x, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert not a.requires_grad
    torch.manual_seed(3)
    assert torch.equal(pv.evaluate.elbo(vae, guide, x, seed=None), a)
    assert not torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("fails", [False, True])
def test_mode_stream_and_gradients_are_restored_also_after_an_exception(fails):
    vae, guide = small_pair()
    vae.train()
    guide.eval()
    vae.p_x.head.eval()  # a submodule that was frozen
    modes = [m.training for p in (vae, guide) for m in p.modules()]
    before = torch.get_rng_state()

    def function(chunk, _):
        assert not any(m.training for p in (vae, guide) for m in p.modules())
        assert not torch.is_grad_enabled()
        torch.rand(5)
        if fails:
            raise ZeroDivisionError
        return {"x": chunk["x"]}

    def evaluate():
        evaluate_in_chunks(function, vae, guide, {"x": torch.ones(N, 6)}, seed=0)

    if fails:
        with pytest.raises(ZeroDivisionError):
            evaluate()
    else:
        evaluate()
    assert [m.training for p in (vae, guide) for m in p.modules()] == modes
    assert torch.equal(before, torch.get_rng_state())
    assert torch.is_grad_enabled()


# --------------------------------------------------------------------- inputs of a split


def test_the_inputs_of_a_split_are_x_and_what_the_model_observes():
    x, y = torch.rand(30, 6).round(), torch.arange(30) % 3
    labeled = pv.data.from_arrays(x, y, valid=6, test=6)
    vae, guide = small_pair()
    assert list(split_inputs(vae, guide, labeled, "test")) == ["x"]
    inputs = split_inputs(vae, guide, labeled, "test", observed=("x", "y"))
    assert torch.equal(inputs["x"], labeled.test.x) and torch.equal(inputs["y"], labeled.test.y)
    conditional = labeled.with_condition(pv.data.Labels(3))
    cvae = pv.models.CVAE((6,), (3,), latent_dim=2, network=NET)
    guide = pv.guides.Guide(cvae, network=NET)
    inputs = split_inputs(cvae, guide, conditional, "valid")
    one_hot = torch.nn.functional.one_hot(conditional.valid.y, 3)
    assert list(inputs) == ["x", "c"] and torch.equal(inputs["c"], one_hot.to(inputs["c"]))
    for x, others in (
        summary.inputs(cvae, guide, conditional, "valid")[::2],
        x_and_inputs(cvae, guide, conditional, "valid", None),
    ):
        assert torch.equal(x, inputs["x"]) and list(others) == ["c"]
        assert torch.equal(others["c"], inputs["c"])


def test_missing_inputs_raise():
    vae, guide = small_pair()
    unlabeled = pv.data.from_arrays(torch.rand(30, 6).round(), valid=6, test=6)
    with pytest.raises(pv.UserError, match="the pair observes 'y', which the data do not have"):
        split_inputs(vae, guide, unlabeled, "test", observed=("x", "y"))


def test_a_per_datum_guide_has_an_index_on_its_own_split_only():
    vae, _ = small_pair()
    split = pv.data.from_arrays(torch.rand(30, 6).round(), valid=6, test=6)
    guide = pv.guides.Guide(vae, {"z": ["index"]}, num_data=18, network=NET)
    inputs = split_inputs(vae, guide, split, "train")
    assert torch.equal(inputs["index"], torch.arange(18))
    with pytest.raises(pv.UserError, match="on the train split alone"):
        split_inputs(vae, guide, split, "test")
    fitted = split_inputs(vae, guide, split, "test", fitted_split="test")
    assert torch.equal(fitted["index"], torch.arange(6))


# ------------------------------------------------------------------- covariates are used


def conditional_model(x, c=None):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def conditional_guide(x, c=None):
    """E[z | x, c] = c x; without covariates x itself."""
    c = torch.ones_like(x) if c is None else c
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(c * x, 0.1).to_event(1))


def test_reference_data_choose_active_units_with_their_covariates():
    """The reference has c = (1, 0): its second unit is constant, whatever x does."""
    reference = {"x": torch.randn(50, 2), "c": torch.tensor([1.0, 0.0]).expand(50, 2)}
    x, c = torch.randn(N, 2), torch.full((N, 2), 3.0)
    features = pv.evaluate.active_unit_features(
        conditional_model, conditional_guide, x, reference=reference, c=c
    )
    torch.testing.assert_close(features, 3 * x[:, :1])
    with pytest.raises(pv.UserError, match="the reference data have no 'c', which x has"):
        pv.evaluate.active_unit_features(
            conditional_model, conditional_guide, x, reference=reference["x"], c=c
        )


def test_features_of_a_pair_without_continuous_latents_raise():
    def mixture(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample(
                "y", dist.Categorical(torch.ones(3) / 3), infer={"enumerate": "parallel"}
            )
            pyro.sample("x", dist.Normal(y.to(x.dtype), 1.0), obs=x)

    def empty(x):
        pass

    with pytest.raises(pv.UserError, match="^this pair has no continuous latent$"):
        pv.evaluate.active_unit_features(mixture, empty, torch.randn(5))


def test_gaps_take_covariates_as_arrays():
    """The pilot runs AIS on 16 of the data points, with their covariates."""
    x, c = torch.randn(18, 2), torch.full((18, 2), 0.5)
    options = {"num_samples": 5, "importance_samples": 5, "max_steps": 1}
    options["annealing"] = {"num_steps": 2, "num_chains": 2, "leapfrog": 1}
    a, b = (
        pv.diagnostics.inference_gaps(conditional_model, conditional_guide, x, c=c, **options)
        for c in (c, c.numpy())
    )
    torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)  # no k-hat of 5 weights


def test_generation_takes_arrays():
    vae, guide = small_pair()
    x, mask = torch.eye(6), torch.tensor([True, True, True, False, False, False])
    array = np.eye(6)
    for function in (
        lambda x: pv.generate.interpolate(vae, guide, x[:2], x[2:4], steps=3),
        lambda x: pv.generate.traverse(vae, guide, x, steps=3).x,
        lambda x: pv.generate.impute(vae, guide, x, mask, num_samples=2, steps=2).x,
    ):
        assert torch.equal(function(x), function(array))
