"""One contract for every method, estimator, objective and network."""

import copy
import importlib.util
import math

import pyro
import pytest
import torch
from objectives import last_gradients
from presets import built
from pyro import poutine
from sampling import covering, in_turn

import pyro_vae as pv
from pyro_vae import methods
from pyro_vae.diagnostics import gaps
from pyro_vae.generate.paths import main_latent
from pyro_vae.objectives import ELBO, IWAE, RWS, STL, DReG, Hybrid, Renyi, SemiSupervised
from pyro_vae.programs.calling import accepts_argument, as_keyword_program
from pyro_vae.programs.inspection import is_per_datum

X_SHAPE, C_SHAPE, N = (1, 8, 8), (5,), 6
TINY = {
    "model.latent_dim": 2, "model.w_dim": 2, "model.z2_dim": 2, "model.num_components": 3,
    "model.num_classes": 3, "prior.num_components": 3, "network.hidden": [6],
    "network.channels": [2, 3], "network.activation": "softplus", "model.likelihood": "bernoulli",
}  # fmt: skip
NAMES_Y = [n for n, m in methods.METHODS.items() if "y" in (m.parents or m.model.default_guide)]
LABELS = torch.tensor([0, -1, 2, -1, 1, -1])
OBJECTIVES = {
    "plain": {},
    "particles": {"num_particles": 3},
    "warm-up": {"warmup": 4, "warmup_start": 0.2},
    "warm-up, free bits": {"warmup": 4, "warmup_start": 0.2, "free_bits": True},
    "warm-up, particles": {"warmup": 4, "warmup_start": 0.2, "num_particles": 3},
    "hybrid": {"alpha": 0.4},
}


def build(name, seed=0, **overrides):
    overrides = {**TINY, **overrides}
    return built(name, X_SHAPE, seed=seed, overrides=overrides, num_data=N, c_shape=C_SHAPE)


def images(n=N):
    gray = torch.full((n, *X_SHAPE), 0.5)
    return torch.bernoulli(gray, generator=torch.Generator().manual_seed(1))


def given(model, n=N):
    """The covariates of a conditional model."""
    c = torch.randn(n, *C_SHAPE, generator=torch.Generator().manual_seed(2))
    return {"c": c} if "c" in getattr(model, "observes", ()) else {}


def index(guide):
    return {"index": torch.arange(N)} if is_per_datum(guide) else {}


def observed(model, guide):
    """The inputs of an evaluation of the pair, other than x."""
    return {**given(model), **index(guide)}


def data(model, labels=None):
    return pv.data.from_arrays(images(), labels, valid=0, test=0, **given(model))


def objective(model, options, kind=ELBO):
    """Constraints on every latent: the discrete one's in force, the others' not."""
    options = dict(options)
    if options.pop("free_bits", False):
        trace = poutine.trace(model).get_trace(size=2, **given(model, 2))
        latents = set(trace.stochastic_nodes) - {"data", "x"}
        options["free_bits"] = {n: 5.0 if n == "y" else 1e-5 for n in latents}
    kind = Hybrid if "alpha" in options and kind is ELBO else kind
    return kind(**options)


TREATMENTS = ("enumerate", "score_function", "relaxed")


def is_treated(name, discrete, *_):
    """Without a discrete latent that the guide names, there is nothing to treat."""
    return discrete == "enumerate" or name in NAMES_Y


def step_reaches_every_parameter(name, discrete, chosen, network, kind=ELBO, labels=None):
    model, guide = build(name, discrete=discrete, network=network)
    options = OBJECTIVES[chosen] if isinstance(chosen, str) else chosen
    with torch.no_grad():  # tables start at zero, where the constants' KL has no gradient
        for parameter in guide.parameters():
            parameter.add_(0.3 if name == "flow-prior" else 0.1)  # a KL above its constraint
        for parameter_name, parameter in model.named_parameters():
            if "pseudo_inputs" in parameter_name:  # alike, their KL is below any constraint
                parameter.mul_(30)
            if parameter_name.startswith("baseline"):  # `fit` refuses one that was never trained
                parameter.add_(0.01)
    before = copy.deepcopy([*model.parameters(), *guide.parameters()])

    def step():
        return pv.fit(
            model, guide, data(model, labels), epochs=1, batch_size=N, lr=1e-2,
            objective=objective(model, options, kind), device="cpu", progress=False,
        )  # fmt: skip

    with last_gradients() as gradients:
        actual = step()
    assert torch.isfinite(torch.tensor(actual.history[0]["loss"]))
    after = [*model.named_parameters(), *guide.named_parameters()]
    for (parameter_name, parameter), old in zip(after, before, strict=True):
        if not parameter.requires_grad:  # frozen, as a CVAE's baseline is
            assert torch.equal(parameter, old), parameter_name
            continue
        assert torch.isfinite(gradients[parameter]).all(), parameter_name
        assert gradients[parameter].abs().sum() > 0, parameter_name
        assert not torch.equal(parameter, old), parameter_name
    assert len(pyro.get_param_store()) == 0


@pytest.mark.parametrize(
    "name, discrete, chosen, network",
    in_turn(
        list(methods.METHODS), TREATMENTS, list(OBJECTIVES), ("MLP", "Conv"), allowed=is_treated
    ),
)
def test_one_step_reaches_every_parameter(name, discrete, chosen, network):
    step_reaches_every_parameter(name, discrete, chosen, network)


@pytest.mark.parametrize(
    "name, kind", covering(list(methods.METHODS), [STL, IWAE, DReG, Renyi, RWS], every=7)
)
def test_one_step_of_every_bound_reaches_every_parameter(name, kind):
    options = {"num_particles": 2, **({"alpha": 0.5} if kind is Renyi else {})}
    step_reaches_every_parameter(name, "enumerate", options, "MLP", kind)


@pytest.mark.parametrize("name, kind", covering(NAMES_Y, [STL, IWAE, Renyi, RWS], every=4))
def test_one_step_with_a_sampled_latent_reaches_every_parameter(name, kind):
    step_reaches_every_parameter(name, "score_function", {"num_particles": 2}, "MLP", kind)


@pytest.mark.parametrize(
    "name, discrete, chosen",
    covering(
        [n for n, m in methods.METHODS.items() if accepts_argument(m.model.forward, "y")],
        TREATMENTS,
        list(OBJECTIVES),
        every=15,
        allowed=is_treated,
    ),
)
def test_one_step_with_some_labels_reaches_every_parameter(name, discrete, chosen):
    step_reaches_every_parameter(name, discrete, chosen, "MLP", SemiSupervised, LABELS)


@pytest.fixture(params=methods.METHODS)
def pair(request):
    return build(request.param)


@pytest.fixture(params=covering(list(methods.METHODS), every=3))
def first_third(request):
    return build(request.param)


@pytest.fixture(params=covering(list(methods.METHODS), every=3, first=1))
def second_third(request):
    return build(request.param)


@pytest.fixture(params=covering(list(methods.METHODS), every=3, first=2))
def last_third(request):
    return build(request.param)


def test_models_sample_without_a_guide(pair):
    model, _ = pair
    assert model(size=3, **given(model, 3)).shape == (3, *X_SHAPE)
    draws = [pv.sample(model, 4, seed=0, **given(model, 4)) for _ in range(2)]
    assert draws[0].shape == (4, *X_SHAPE) and torch.equal(*draws)


def test_poutine_traces_both_programs(second_third):
    model, guide = second_third
    x = images()
    q = poutine.trace(guide).get_trace(x=x, **observed(model, guide))
    p = poutine.trace(poutine.replay(model, q)).get_trace(x=x, **given(model))
    p.compute_log_prob()
    assert torch.isfinite(p.log_prob_sum()) and torch.isfinite(q.log_prob_sum())
    own = {n for n, s in q.nodes.items() if s.get("infer", {}).get("is_auxiliary")}
    assert set(q.stochastic_nodes) - own <= set(p.stochastic_nodes)
    assert p.nodes["x"]["is_observed"] and p.nodes["x"]["log_prob"].shape == (N,)


def test_predictive_draws_data_and_latents(last_third):
    model, guide = last_third
    prior = pyro.infer.Predictive(model, num_samples=5)(size=3, **given(model, 3))
    assert prior["x"].shape == (5, 3, *X_SHAPE)
    if index(guide):
        return  # Predictive calls model and guide alike; this model takes no index
    predictive = pyro.infer.Predictive(model, guide=guide, num_samples=5)
    posterior = predictive(images(), **given(model))
    for latent in set(getattr(guide, "factors", ())) - {"y"}:
        assert posterior[latent].shape == (5, N, 2)
    # with obs given, Predictive returns the data: `reconstruct` is the library's own
    assert torch.equal(posterior["x"], images().expand(5, *images().shape))
    rebuilt = pv.evaluate.reconstruct(model, guide, images(), **given(model))
    assert rebuilt.shape == images().shape


@pytest.mark.skipif(
    importlib.util.find_spec("graphviz") is None,
    reason="needs the package graphviz: pip install pyro-vae[graph]",
)
def test_render_model_draws_the_graph(first_third):
    model, guide = first_third
    arguments = {"size": 2, **given(model, 2)}
    graph = pyro.render_model(model, model_kwargs=arguments, render_distributions=True)
    assert all(
        name in graph.source for name in pyro.infer.Predictive(model, num_samples=1)(**arguments)
    )
    pyro.render_model(guide, model_kwargs={"x": images(), **observed(model, guide)})


@pytest.mark.parametrize(
    "name, network", covering(list(methods.METHODS), ["MLP", "Conv", "ResidualMLP"], every=7)
)
def test_a_state_dict_carries_the_whole_pair(name, network, tmp_path):
    pairs = [build(name, seed=seed, network=network) for seed in (0, 1)]
    x, others = images(), observed(*pairs[0])
    bounds = [pv.evaluate.elbo(*p, x, **others) for p in pairs]
    if name != "vae-constants":
        assert not torch.allclose(*bounds)
    for old, new in zip(*pairs, strict=True):
        torch.save(old.state_dict(), tmp_path / "weights.pt")
        new.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(pv.evaluate.elbo(*pairs[1], x, **others), bounds[0])


def pretend_trained(model):
    """`fit` refuses a frozen baseline that its start has not trained."""
    for p in getattr(getattr(model, "baseline", None), "parameters", list)():
        p.data.add_(0.01)


def test_copies_share_nothing(first_third):
    pair = first_third
    x, others = images(), observed(*pair)
    sharing_factor = copy.deepcopy(pair)
    own = {p.data_ptr() for m in pair for p in [*m.parameters(), *m.buffers()]}
    assert not own & {p.data_ptr() for m in sharing_factor for p in [*m.parameters(), *m.buffers()]}
    before = pv.evaluate.elbo(*pair, x, **others)
    assert torch.equal(pv.evaluate.elbo(*sharing_factor, x, **others), before)
    pretend_trained(sharing_factor[0])
    pv.fit(*sharing_factor, data(pair[0]), epochs=1, lr=0.1, device="cpu", progress=False)
    assert torch.equal(pv.evaluate.elbo(*pair, x, **others), before)
    assert not torch.equal(pv.evaluate.elbo(*sharing_factor, x, **others), before)


def test_check_pair_accepts_every_method_and_evaluation_is_finite_per_data_point(pair):
    model, guide = pair
    x, others = images(), observed(model, guide)
    pv.check_pair(model, guide, x, **others)
    for value in (
        pv.evaluate.elbo(model, guide, x, **others),
        pv.evaluate.log_likelihood(model, guide, x, num_samples=10, **others),
    ):
        assert value.shape == (N,) and torch.isfinite(value).all()


def test_every_way_of_generating_works(second_third):
    model, guide = second_third
    x, others, c = images(), observed(model, guide), given(model, 4)
    latent = main_latent(model)
    if latent is None or isinstance(guide, pv.guides.PriorGuide):
        return  # nothing to encode x to
    source = pv.generate.AggregatePosterior(guide, x, **others)
    assert pv.sample(model, 4, source=source, mean=True).shape == (4, *X_SHAPE)
    density = pv.evaluate.fit_ex_post_prior(model, guide, x, latent, num_components=2, **others)
    assert pv.sample(model, 4, source={latent: density}, **c).shape == (4, *X_SHAPE)
    first = {k: v[:1] for k, v in others.items()}
    path = pv.interpolate(model, guide, x[:1], x[:1], steps=3, **first)
    assert path.shape == (1, 3, *X_SHAPE) and torch.isfinite(path).all()
    torch.testing.assert_close(path[:, 0], path[:, 2])
    assert pv.traverse(model, guide, x, units=1, steps=3, **others).x.shape == (1, 3, *X_SHAPE)
    mask = torch.arange(64).reshape(X_SHAPE) < 32
    done = pv.impute(model, guide, x, mask, num_samples=2, steps=3, **others).x
    assert done.shape == (2, N, *X_SHAPE) and set(done.unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(done[:, :, mask], x[:, mask].expand(2, N, 32))


def test_pairs_are_evaluated_in_the_float64_of_their_weights(last_third):
    model, guide = (m.double() for m in last_third)
    bound = pv.evaluate.elbo(model, guide, images().double(), **observed(model, guide))
    assert bound.dtype == model(size=2, **given(model, 2)).dtype == torch.float64


@pytest.mark.parametrize("name", covering(list(methods.METHODS), every=4, first=1))
def test_pairs_train_in_float64_where_that_is_torchs_default(name):
    torch.set_default_dtype(torch.float64)
    model, guide = build(name)
    pretend_trained(model)
    assert pv.fit(model, guide, data(model), epochs=1, device="cpu", progress=False).history
    assert {p.dtype for m in (model, guide) for p in m.parameters()} == {torch.float64}


def test_a_pair_made_float64_trains_on_float64_data():
    model, guide = (m.double() for m in build("gmvae"))
    assert pv.fit(model, guide, images().double(), epochs=1, device="cpu", progress=False).history


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")
@pytest.mark.parametrize("network", ["MLP", "Conv"])
@pytest.mark.parametrize("name", methods.METHODS)
def test_it_trains_on_a_gpu_and_has_the_same_log_probs_there(name, network):
    model, guide = build(name, network=network)
    pretend_trained(model)
    run = pv.fit(model, guide, data(model), epochs=2, device="cuda", progress=False)
    assert len(run.history) == 2
    assert {p.device.type for m in (model, guide) for p in m.parameters()} == {"cuda"}
    x, others = images(), observed(model, guide)
    on_gpu = pv.evaluate.log_likelihood(model, guide, x, num_samples=20, **others)
    assert on_gpu.device == x.device and torch.isfinite(on_gpu).all()
    model.cpu(), guide.cpu()
    drawn = log_probs(model, guide, x, others)
    values = {n: site["value"] for n, site in drawn[0].items() if n != "data"}
    values |= {n: site["value"] for n, site in drawn[1].items() if n not in ("x", "data")}
    if name == "semi-amortized":  # its own steps draw noise at each call
        drawn, values = (drawn[1], drawn[1]), values
    both = []
    for device in ("cpu", "cuda"):
        model.to(device), guide.to(device)
        at = {n: v.to(device) for n, v in values.items()}
        here = {n: v.to(device) for n, v in others.items()}
        sites = log_probs(model, guide, x.to(device), here, at)
        sites = sites[1:] if name == "semi-amortized" else sites
        both.append(
            {(i, n): s["log_prob"].cpu() for i, t in enumerate(sites) for n, s in t.items()}
        )
    assert both[0].keys() == both[1].keys() and both[0]
    for site, expected in both[0].items():
        torch.testing.assert_close(both[1][site], expected, rtol=1e-3, atol=1e-3)


def log_probs(model, guide, x, others, values=None):
    """The sites of guide and model, with their log-probs; at given values of the latents."""
    values = values or {}
    q = poutine.trace(poutine.condition(as_keyword_program(guide), values)).get_trace(x=x, **others)
    values = {**values, **{n: q.nodes[n]["value"] for n in q.stochastic_nodes if n != "data"}}
    program = poutine.condition(as_keyword_program(model), {n: v for n, v in values.items()})
    p = poutine.trace(program).get_trace(x=x, **others)
    for trace in (q, p):
        trace.compute_log_prob()
    return [
        {
            n: s
            for n, s in t.nodes.items()
            if s["type"] == "sample" and "log_prob" in s and n != "data"
        }
        for t in (q, p)
    ]


@pytest.mark.parametrize("name", covering(list(methods.METHODS), every=4, first=3))
def test_every_method_can_be_diagnosed(name, monkeypatch):
    monkeypatch.setattr(gaps, "WINDOW", 2)
    diagnose(name, *build(name))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")
@pytest.mark.parametrize("name", methods.METHODS)
def test_every_method_can_be_diagnosed_on_a_gpu(name, monkeypatch):
    monkeypatch.setattr(gaps, "WINDOW", 2)
    model, guide = build(name)
    diagnose(name, model.cuda(), guide.cuda())


def diagnose(name, model, guide):
    x, others = images(), observed(model, guide)
    if name == "nn-baseline":
        with pytest.raises(pv.UserError, match="no continuous latent"):
            pv.diagnostics.ais(model, x, **others)
        return
    annealed = pv.diagnostics.ais(model, x, guide, num_steps=3, num_chains=2, leapfrog=2, **others)
    actual = pv.diagnostics.inference_gaps(
        model, guide, x, 50, 50, max_steps=2, annealing={"num_steps": 2, "num_chains": 2}, **others
    )
    evaluated = pv.diagnostics.importance_diagnostics(model, guide, x, 50, **others)
    assert actual.pop("pareto_k").shape == (len(x),)  # NaN: 50 weights are too few for it
    for value in (annealed, *actual.values(), evaluated["ess"]):
        assert value.shape == (len(x),) and torch.isfinite(value).all()
    assert (actual["amortization"] > -5 * actual["amortization_se"] - 1e-3).all()
    for parts in pv.diagnostics.elbo_surgery(model, guide, x, **others).values():
        assert parts["mutual_information"] < math.log(len(x)) + 1e-3
    if "index" not in others:
        gap = pv.diagnostics.bdmc(model, guide, len(x), 2, 2, 2, **others)["gap"]
        assert torch.isfinite(gap).all()
        ranks = pv.diagnostics.simulation_based_calibration(
            model, guide, len(x), 19, bins=4, **others
        )
        assert all(len(r["ranks"]) == len(x) for r in ranks.values())
