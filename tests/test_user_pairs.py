"""Users' own Pyro programs: every function of the library, against Pyro and plain loops.

The programs are in `user_programs.py`. The truth is computed here, one unvectorized run of guide
and model at a time, without the library: the ELBO and importance weights from the sites'
log-probabilities, and Pyro's own loss.
"""

import functools
import itertools
import math
from contextlib import contextmanager

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn as nn
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from pyro.poutine.util import prune_subsample_sites
from sampling import covering
from user_programs import PROGRAMS, REFUSED, K, N

import pyro_vae as pv

RUNS = 40  # unvectorized runs of each program for the truth
OBJECTIVES = {"IWAE": pv.objectives.IWAE, "DReG": pv.objectives.DReG, "RWS": pv.objectives.RWS}


# ---------------------------------------------------------------- the truth


def build(name):
    """A program with the weights that are always its weights, and a clean parameter store."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    return {**PROGRAMS, **REFUSED}[name]()


def positional(program):
    """How its author calls it: the data first, the others by name."""
    others = {k: v for k, v in program.batch.items() if k != "x"}
    return (program.batch["x"],), others


@contextmanager
def evaluation_mode(program):
    for module in program.modules:
        module.eval()
    with torch.no_grad(), torch.random.fork_rng():
        yield


def is_density(site):
    """Whether a site has a density: no `pyro.deterministic`, and no `pyro.factor`."""
    if site["type"] != "sample" or site["infer"].get("_deterministic"):
        return False
    fn = site["fn"]
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return not isinstance(fn, dist.Unit)


def is_factor_of_rows(site):
    """Whether a site is a `pyro.factor` in the data plate."""
    frames = site.get("cond_indep_stack", ())
    in_plate = site["type"] == "sample" and [f.dim for f in frames if f.vectorized] == [-1]
    return in_plate and not is_density(site) and not site["infer"].get("_deterministic")


def log_probs(trace, latent_only=False, factors=True):
    """`{site: [N]}` log-probabilities: masked, unscaled; those of factors too."""
    trace = prune_subsample_sites(trace)
    trace.compute_log_prob()
    actual = {}
    for name, site in trace.nodes.items():
        kept = is_density(site) and not (latent_only and site["is_observed"])
        if kept or factors and is_factor_of_rows(site):
            value, mask = site["unscaled_log_prob"], site["mask"]
            if mask is not None:
                value = torch.where(torch.as_tensor(mask), value, torch.zeros(()))
            actual[name] = value.expand(N).double()
    return actual


def one_run(program, factors=True):
    """`({site: [N]} of the model, {site: [N]} of the guide)`; latents of the model alone summed."""
    args, kwargs = positional(program)
    guide = poutine.trace(program.guide).get_trace(*args, **kwargs)
    replayed = poutine.replay(program.model, trace=guide)
    q = log_probs(guide, latent_only=True, factors=factors)
    if not program.summed:
        return log_probs(poutine.trace(replayed).get_trace(*args, **kwargs)), q
    joints = []
    for values in itertools.product(*program.summed.values()):
        data = {n: v.expand(N) for n, v in zip(program.summed, values, strict=True)}
        conditioned = poutine.condition(replayed, data=data)
        p = log_probs(poutine.trace(conditioned).get_trace(*args, **kwargs))
        joints.append(sum(p.values()))
    return {"all": torch.stack(joints).logsumexp(0)}, q


@functools.cache
def unvectorized_runs(name, guide_factors=True):
    """`(log weights [RUNS, N], {site: terms [RUNS, N]})`."""
    program, terms = build(name), []
    with evaluation_mode(program):
        torch.manual_seed(1)
        for _ in range(RUNS):
            p, q = one_run(program, guide_factors)
            for (
                site,
                value,
            ) in q.items():  # an AutoNormal's unconstrained site is part of its latent
                site = site.removesuffix("_unconstrained")
                p[site] = p.get(site, 0.0) - value
            terms.append(p)
    terms = {site: torch.stack([t[site] for t in terms]) for site in terms[0]}
    return sum(terms.values()), terms


@functools.cache
def pyro_elbo(name, num=RUNS):
    """Mean and standard error of Pyro's own ELBO, nats per data point, in eval mode."""
    program = build(name)
    args, kwargs = positional(program)
    loss = program.loss(max_plate_nesting=1)
    with evaluation_mode(program):
        torch.manual_seed(2)
        bounds = [-loss.loss(program.model, program.guide, *args, **kwargs) / N for _ in range(num)]
    bounds = torch.tensor(bounds, dtype=torch.double)
    return bounds.mean(), bounds.std() / math.sqrt(num)


def importance_sampler(name):
    """`[N]` estimates of log p(x) with `RUNS` unvectorized samples, and their standard errors."""
    log_w, _ = unvectorized_runs(name, guide_factors=False)
    w = (log_w - log_w.max(0).values).exp()
    return log_w.logsumexp(0) - math.log(RUNS), w.std(0) / w.mean(0) / math.sqrt(RUNS)


def assert_near(actual, expected, error, sigmas=5.0, what=""):
    """Within `sigmas` standard errors, and rounding in float32."""
    distance = (torch.as_tensor(actual).double() - expected).abs()
    allowed = sigmas * torch.as_tensor(error) + 1e-4
    assert (distance <= allowed).all(), (
        f"{what}: {torch.as_tensor(actual).tolist()} for {expected.tolist()} ± {error}"
    )


def latents_and_data(program):
    """Names of the model's densities."""
    args, kwargs = positional(program)
    with evaluation_mode(program):
        trace = prune_subsample_sites(poutine.trace(program.model).get_trace(*args, **kwargs))
    return {n for n, s in trace.nodes.items() if is_density(s)}


def event_shape(program):
    args, kwargs = positional(program)
    with evaluation_mode(program):
        trace = poutine.trace(program.model).get_trace(*args, **kwargs)
    seen = trace.nodes[program.site]["value"]
    source = [
        v
        for v in args + tuple(kwargs.values())
        if v.numel() == seen.numel() and (v.reshape(-1) == seen.reshape(-1)).all()
    ]
    return tuple(
        (source[0] if source else seen).shape[1:]
    )  # as the user passed it, not as reshaped


def training_data(program):
    """What a user trains on: x, or arrays by name. `index` is the library's to give."""
    data = {k: v for k, v in program.batch.items() if k != "index"}
    return data["x"] if set(data) == {"x"} else data


def train(program, data=None, **options):
    """Two epochs; the last batch has one row, unless the program needs all rows at once."""
    data = training_data(program) if data is None else data
    options = {"epochs": 2, "lr": 1e-3, "batch_size": N if program.all_rows else 8} | options
    return pv.fit(program.model, program.guide, data, progress=False, device="cpu", **options)


def assert_one_line(error):
    assert "\n" not in str(error) and str(error).strip()


@contextmanager
def or_refused_for_its_factor(name):
    """A model with `pyro.factor` may have no likelihood, if that is the reason that the error gives."""
    try:
        yield
    except pv.UserError as error:
        if not name.startswith("penalty"):
            raise
        assert_one_line(error)
        assert "factor" in str(error)


@pytest.fixture(params=PROGRAMS)
def name(request):
    return request.param


@pytest.fixture
def program(name):
    return build(name)


@pytest.fixture(params=REFUSED)
def refused_program(request):
    return build(request.param)


# ---------------------------------------------------------------- the programs themselves


@pytest.mark.parametrize("name", covering(list(PROGRAMS), every=8, first=1), indirect=True)
def test_unvectorized_runs_average_to_pyros_loss(name, program):
    """The loops below and Pyro's loss agree, wherever Pyro's loss is the plain ELBO."""
    if not program.plain:
        pytest.skip("Pyro's loss is scaled, or has more terms than the ELBO")
    log_w, _ = unvectorized_runs(name)
    expected, error = pyro_elbo(name)
    own = log_w.mean(1)
    assert_near(own.mean(), expected, math.hypot(error, own.std() / math.sqrt(RUNS)), what=name)


# ---------------------------------------------------------------- evaluation


def test_check_pair_accepts(program):
    pv.check_pair(program.model, program.guide, **program.batch)


@pytest.mark.parametrize("name", covering(list(PROGRAMS), every=5), indirect=True)
def test_elbo_equals_pyros(name, program):
    """On average Pyro's own loss; for each data point, the unvectorized runs."""
    num = 400
    bound = pv.evaluate.elbo(program.model, program.guide, num_samples=num, **program.batch)
    assert bound.shape == (N,)
    log_w, _ = unvectorized_runs(name)
    ratio = math.sqrt(1 + RUNS / num)
    own = log_w.mean(1)
    error = ratio * own.std() / math.sqrt(RUNS)
    assert_near(bound.double().mean(), own.mean(), error, what="mean")
    assert_near(bound, log_w.mean(0), ratio * log_w.std(0) / math.sqrt(RUNS), 7.0, "data points")
    if program.plain:
        expected, pyro_error = pyro_elbo(name)
        assert_near(bound.double().mean(), expected, math.hypot(pyro_error, error), what="Pyro")


@pytest.mark.parametrize("name", covering(list(PROGRAMS), every=8, first=2), indirect=True)
def test_one_sample_bounds_average_to_the_elbo(name, program):
    """`num_samples=1`, which validation uses, has the same expectation as many samples."""
    bounds = torch.stack(
        [
            pv.evaluate.elbo(program.model, program.guide, seed=s, **program.batch).double().mean()
            for s in range(30)
        ]
    )
    log_w, _ = unvectorized_runs(name)
    own = log_w.mean(1)
    error = own.std() * math.sqrt(1 / RUNS + 1 / 30)
    assert_near(bounds.mean(), own.mean(), error, what=name)


@pytest.mark.parametrize("name", covering(list(PROGRAMS), every=4, first=2), indirect=True)
def test_elbo_terms_are_those_of_each_site(name, program):
    """They sum to the ELBO, name the sites, and have each site's expectation."""
    num = 400
    args = program.model, program.guide
    terms = pv.evaluate.elbo_terms(*args, num_samples=num, **program.batch)
    bound = pv.evaluate.elbo(*args, num_samples=num, **program.batch)
    torch.testing.assert_close(sum(terms.values()), bound)
    if program.summed:
        assert set(terms) == latents_and_data(program)
        return  # a latent that the model sums has no unvectorized counterpart
    _, expected = unvectorized_runs(name)
    assert set(terms) == set(expected)
    ratio = math.sqrt(1 + RUNS / num)
    for site, term in terms.items():
        own = expected[site].mean(1)
        error = ratio * own.std() / math.sqrt(RUNS)
        assert_near(term.double().mean(), own.mean(), error, what=site)


@pytest.mark.parametrize("name", covering(list(PROGRAMS), every=6, first=2), indirect=True)
def test_log_likelihood_equals_a_plain_importance_sampler(name, program):
    expected, error = importance_sampler(name)
    ratio = math.sqrt(2.0)
    bias = (error**2).mean()  # a bound with enumerated latents is tighter by at most this
    with or_refused_for_its_factor(name):
        bound = pv.evaluate.log_likelihood(
            program.model, program.guide, num_samples=RUNS, **program.batch
        )
        assert bound.shape == (N,)
        assert_near(bound.double().mean(), expected.mean(), ratio * error.norm() / N + bias / 5)
        assert_near(bound, expected, ratio * error + error**2, 7.0, "data points")


@pytest.mark.parametrize("name", covering(list(PROGRAMS), every=5, first=1), indirect=True)
def test_evaluation_leaves_the_program_as_it_was(name, program):
    """Buffers, parameters, modes and the random stream: BatchNorm's statistics too."""
    modules = nn.ModuleList(program.modules).train()
    before = {k: v.clone() for k, v in modules.state_dict().items()}
    state = torch.get_rng_state()
    pv.evaluate.elbo(program.model, program.guide, num_samples=3, **program.batch)
    with or_refused_for_its_factor(name):
        pv.evaluate.log_likelihood(program.model, program.guide, num_samples=3, **program.batch)
    after = modules.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert all(m.training for m in modules.modules())
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", covering(list(PROGRAMS), every=4), indirect=True)
def test_samples_are_draws_of_the_model(name, program):
    """Their shape, and each unit's mean, against the program without its data, run by hand."""
    num = 60 * N
    site = {} if _data_sites(program) == {program.site} else {"site": program.site}
    few = pv.sample(program.model, 5, example=program.batch, seed=0, **site)
    assert few.shape == (5, *event_shape(program))
    draws = pv.sample(program.model, num, example=program.batch, seed=1, **site).double()
    others = {k: v for k, v in program.batch.items() if k != "x"}  # a row of them for each sample
    x, model, own = program.batch["x"], poutine.uncondition(program.model), []
    with evaluation_mode(program):
        torch.manual_seed(2)
        for _ in range(60):
            own.append(poutine.trace(model).get_trace(x, **others).nodes[program.site]["value"])
    own = torch.cat(own).double()
    own = own.reshape(len(own), *draws.shape[1:])
    spread = (own.var(0) + draws.var(0)).sqrt()
    assert (spread > 0).any()
    assert_near(draws.mean(0), own.mean(0), spread / math.sqrt(num), 6.0)


def _data_sites(program):
    return latents_and_data(program) & _observed(program)


def _observed(program):
    args, kwargs = positional(program)
    with evaluation_mode(program):
        trace = poutine.trace(program.model).get_trace(*args, **kwargs)
    return {n for n, s in trace.nodes.items() if s["type"] == "sample" and s["is_observed"]}


# ---------------------------------------------------------------- training


@pytest.mark.parametrize("name", covering(list(PROGRAMS), every=4, first=1), indirect=True)
def test_fit_trains_and_evaluates(program):
    """Two epochs, on a tensor or arrays by name."""
    run = train(program)
    assert len(run.history) == 2
    assert all(math.isfinite(epoch["loss"]) for epoch in run.history)
    bound = pv.evaluate.elbo(program.model, program.guide, **program.batch)
    assert bound.shape == (N,) and bound.isfinite().all()


@pytest.mark.parametrize(
    "name, objective", covering(list(PROGRAMS), list(OBJECTIVES), every=10), indirect=["name"]
)
def test_weighted_objectives_train_and_evaluate(objective, program):
    """Two steps, then both bounds; or one line."""
    args = program.model, program.guide
    try:
        run = train(program, objective=OBJECTIVES[objective](3), batch_size=N)
        bounds = [
            pv.evaluate.elbo(*args, **program.batch),
            pv.evaluate.log_likelihood(*args, num_samples=10, **program.batch),
        ]
    except pv.UserError as error:
        assert_one_line(error)
        return
    assert all(math.isfinite(epoch["loss"]) for epoch in run.history)
    assert all(b.shape == (N,) and b.isfinite().all() for b in bounds)


def test_all_rows_meet_their_own_data(table):
    """A row per data point without `index`: fitted to its own data point, or refused in one line."""
    program = build(table)
    options = {"epochs": 150, "lr": 0.1, "schedule": "cosine"}
    try:
        train(program, **options)
    except pv.UserError as error:
        assert_one_line(error)
        return
    decoder, x = program.modules[0], program.batch["x"]
    w, b = decoder.weight.detach(), decoder.bias.detach()
    posterior = torch.linalg.solve(torch.eye(2) + w.T @ w, w.T @ (x - b).T).T
    is_auto = isinstance(program.guide, AutoNormal)
    loc = program.guide.median()["z"] if is_auto else pyro.param("loc")
    torch.testing.assert_close(loc.detach(), posterior, atol=0.3, rtol=0)


@pytest.fixture(params=["auto_normal_all_rows", "param_table_all_rows"])
def table(request):
    return request.param


NORMALIZED = [n for n in PROGRAMS if n in ("convolutional_view", "prod_lda", "log_normal_topics")]


@pytest.mark.parametrize("name", NORMALIZED)
def test_batch_statistics_change_by_training_steps_alone(name):
    """Two steps of one forward pass each: neither a check nor validation is counted."""
    program = build(name)
    train(program, batch_size=N)
    layers = [m for top in program.modules for m in top.modules() if hasattr(m, "running_mean")]
    assert layers and all(int(m.num_batches_tracked) == 2 for m in layers)


VALIDATED = ["multinomial_softmax_dim_1", "ss_vae_parallel", "convolutional_unflatten", "prod_lda"]


@pytest.mark.parametrize("name", VALIDATED)
def test_validation_is_the_elbo_of_the_held_out_rows(name):
    """After an epoch of steps of length 0, the bound of 680 held-out rows is Pyro's own."""
    program = build(name)
    x = program.batch["x"]
    data = pv.data.from_arrays(x.repeat(41, *[1] * (x.dim() - 1)), valid=680, test=0)
    run = train(program, data=data, epochs=1, lr=1e-12)
    x, loss = data.valid.x, program.loss(max_plate_nesting=1)
    with evaluation_mode(program):
        own = [-loss.loss(program.model, program.guide, x) / len(x) for _ in range(40)]
    own = torch.tensor(own).double()
    error = own.std() * math.sqrt(1 + 1 / 40)
    assert_near(run.history[0]["elbo"], own.mean(), error, what=name)


MEASURED = ["multinomial_softmax_dim_1", "ss_vae_parallel", "ss_vae_sampled", "deep_markov_model"]
MEASURED += ["subsampled_plate", "subsample_size_of_the_batch", "param_table_by_index"]


@pytest.mark.parametrize("name", MEASURED)
def test_history_holds_the_loss_per_data_point(name):
    """Whatever the plate's scale: over 20 steps of length 0, minus the ELBO."""
    program = build(name)
    run = train(program, epochs=20, lr=1e-12, batch_size=N)
    losses = torch.tensor([epoch["loss"] for epoch in run.history]).double()
    own = unvectorized_runs(name)[0].mean(1)
    error = own.std() * math.sqrt(1 / RUNS + 1 / 20)
    assert_near(-losses.mean(), own.mean(), error, what=name)


# ---------------------------------------------------------------- further diagnostics


@pytest.mark.parametrize("name", covering(list(PROGRAMS), every=5, first=2), indirect=True)
def test_posterior_draws_and_reconstructions_have_rows(name, program):
    latents = latents_and_data(program) - _observed(program)
    draws = pv.evaluate.sample_posterior(program.model, program.guide, **program.batch)
    assert set(draws) == latents
    assert all(len(v) == N and v.isfinite().all() for v in draws.values())
    site = {} if _data_sites(program) == {program.site} else {"site": program.site}
    try:
        mean = pv.evaluate.reconstruct(program.model, program.guide, **program.batch, **site)
    except pv.UserError as error:
        assert program.site == "tokens", error  # a categorical has no mean
        assert_one_line(error)
        return
    assert mean.shape == (N, *event_shape(program)) and mean.isfinite().all()


@pytest.mark.parametrize("name", covering(list(PROGRAMS), every=4, first=2), indirect=True)
def test_importance_weights_average_to_the_likelihood(name, program):
    """`[S, N]` weights, each data point's in its own column."""
    with or_refused_for_its_factor(name):
        log_w = pv.diagnostics.importance_weights(
            program.model, program.guide, num_samples=RUNS, **program.batch
        )
        assert log_w.shape == (RUNS, N)
        expected, error = importance_sampler(name)
        actual = log_w.double().logsumexp(0) - math.log(RUNS)
        assert_near(actual, expected, math.sqrt(2.0) * error + error**2, 7.0)


@pytest.mark.parametrize("name", covering(list(PROGRAMS), every=9, first=3), indirect=True)
def test_ais_equals_importance_sampling(name, program):
    """AIS from the prior, which looks at no guide; or one line, where no latent is continuous."""
    try:
        actual = pv.diagnostics.ais(
            program.model, num_steps=12, num_chains=30, leapfrog=3, **program.batch
        )
    except pv.UserError as error:
        assert name == "binary_latents" or name.startswith("penalty"), error
        assert_one_line(error)
        return
    expected, error = importance_sampler(name)
    assert_near(actual.double().mean(), expected.mean(), 0.03 + error.norm() / N, 5.0)


@pytest.mark.parametrize("name", covering(list(PROGRAMS), every=9, first=1), indirect=True)
def test_inference_gaps_add_up(name, program):
    """approximation + amortization = log p(x) - ELBO; or one line that names the distribution."""
    try:
        gaps = pv.diagnostics.inference_gaps(
            program.model,
            program.guide,
            num_samples=50,
            importance_samples=50,
            annealing=False,
            max_steps=10,
            **program.batch,
        )
    except pv.UserError as error:
        assert_one_line(error)
        return
    log_w, _ = unvectorized_runs(name, guide_factors=False)
    own = log_w.mean(1)
    error = own.std() * math.sqrt(1 / RUNS + 1 / 50)
    assert_near(gaps["elbo"].double().mean(), own.mean(), error, what="elbo")
    del gaps["pareto_k"]  # NaN: 50 weights are too few for it
    assert all(v.isfinite().all() for v in gaps.values())


COMPARED = ["vae", "multinomial_softmax_dim_1", "ss_vae_parallel", "ss_vae_sampled", "prod_lda"]
COMPARED += ["cvae_with_baseline", "convolutional_view", "deep_markov_model", "scanvi"]


@pytest.mark.parametrize("name", covering(COMPARED, every=5, first=3))
def test_compare_reports_the_pair(name):
    """One row, whose ELBO is that of the trained networks by plain loops."""
    program = build(name)
    comparison = pv.compare(
        lambda: program.model,
        {"own": lambda model: program.guide},
        training_data(program),
        seeds=1,
        num_samples=30,
        num_gap_data=0,
        epochs=1,
        batch_size=8,
        device="cpu",
        progress=False,
    )
    (row,) = comparison.rows
    with evaluation_mode(program):
        runs = [one_run(program) for _ in range(60)]
    own = torch.stack([(sum(p.values()) - sum(q.values())).mean() for p, q in runs])
    assert_near(row["elbo"], own.mean(), own.std() * math.sqrt(1 / 60 + 1 / 10), what=name)
    assert math.isfinite(row["log_likelihood"])


# ---------------------------------------------------------------- refused programs


CALLS = {
    "check_pair": lambda p: pv.check_pair(p.model, p.guide, **p.batch),
    "elbo": lambda p: pv.evaluate.elbo(p.model, p.guide, num_samples=3, **p.batch),
    "elbo_terms": lambda p: pv.evaluate.elbo_terms(p.model, p.guide, **p.batch),
    "log_likelihood": lambda p: pv.evaluate.log_likelihood(
        p.model, p.guide, num_samples=5, **p.batch
    ),
    "importance_weights": lambda p: pv.diagnostics.importance_weights(
        p.model, p.guide, num_samples=5, **p.batch
    ),
    "ais": lambda p: pv.diagnostics.ais(p.model, num_steps=3, num_chains=2, **p.batch),
    "fit": train,
    "sample": lambda p: pv.sample(p.model, 5, example=p.batch, site=p.site),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_pair_without_one_data_plate_raises_one_line(call, refused_program):
    with pytest.raises(pv.UserError) as error:
        CALLS[call](refused_program)
    assert_one_line(error.value)
    named = [n for n in _all_sites(refused_program) if repr(n) in str(error.value)]
    assert named and "plate" in str(error.value)


def _all_sites(program):
    args, kwargs = positional(program)
    with evaluation_mode(program):
        trace = poutine.trace(program.model).get_trace(*args, **kwargs)
    return [n for n, s in trace.nodes.items() if s["type"] == "sample"]


# ---------------------------------------------------------------- right, or one line


def right_or_refused(call, expected, error):
    """A call's mean is right, or it raises one line; never a wrong number."""
    try:
        actual = call()
    except pv.UserError as refusal:
        assert_one_line(refusal)
        return
    assert_near(actual.double().mean(), expected, error)


def test_a_plate_that_subsamples_by_itself_is_right_or_refused():
    """Each run of the program sees 6 rows of 18, which it chooses."""
    x = build("vae").batch["x"]
    x = torch.cat([x, x[:1]])
    enc, dec = nn.Linear(6, 2), nn.Linear(2, 6)

    def model(x):
        pyro.module("dec", dec)
        with pyro.plate("data", len(x), subsample_size=6) as i:
            z = pyro.sample("z", dist.Normal(torch.zeros(6, 2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=dec(z)).to_event(1), obs=x[i])

    def guide(x):
        pyro.module("enc", enc)
        with pyro.plate("data", len(x), subsample_size=6) as i:
            pyro.sample("z", dist.Normal(0.3 * enc(x[i]), 1.0).to_event(1))

    loss = pyro.infer.Trace_ELBO()
    with torch.no_grad():
        own = torch.tensor([-loss.loss(model, guide, x) / len(x) for _ in range(200)]).double()
    error = own.std() * math.sqrt(1 / 200 + 1 / 50)
    right_or_refused(lambda: pv.evaluate.elbo(model, guide, x, num_samples=50), own.mean(), error)
    right_or_refused(
        lambda: (
            pv.evaluate.elbo_terms(model, guide, x, num_samples=50)["x"]
            + pv.evaluate.elbo_terms(model, guide, x, num_samples=50)["z"]
        ),
        own.mean(),
        error,
    )
    try:
        pv.check_pair(model, guide, x)
        run = pv.fit(model, guide, x, epochs=1, lr=1e-12, batch_size=18, progress=False)
        assert abs(run.history[0]["loss"] + own.mean()) < 5 * own.std()
    except pv.UserError as refusal:
        assert_one_line(refusal)


def test_a_point_guide_has_no_importance_weights():
    """A `Delta` has no density to divide by: p(x, z) at a point is no estimate of p(x)."""
    vae = build("vae")
    enc = nn.Linear(6, 2)

    def guide(x):
        with pyro.plate("data", x.shape[0]):
            pyro.sample("latent", dist.Delta(enc(x)).to_event(1))

    x = vae.batch["x"]
    for function in (pv.evaluate.log_likelihood, pv.diagnostics.importance_weights):
        with pytest.raises(pv.UserError, match="'latent'") as error:
            function(vae.model, guide, x, num_samples=10)
        assert_one_line(error.value)


def test_a_model_with_a_factor_has_no_proper_likelihood():
    """With `pyro.factor`, the density does not integrate to 1."""
    for name, proper in {"vae": True, "penalty_per_data_point": False}.items():
        program = build(name)
        assert (
            pv.evaluate.has_proper_likelihood(program.model, program.guide, **program.batch)
            == proper
        )


# ---------------------------------------------------------------- longer runs, other habits

HABITS = [
    "vae",
    "ss_vae_labels_as_numbers",
    "functions_with_pyro_param",
    "pyro_modules",
    "easy_guide",
    "auto_normal_create_plates",
]


@pytest.fixture(params=HABITS)
def habit(request):
    return build(request.param)


def test_training_raises_the_elbo(habit):
    args = habit.model, habit.guide
    before = pv.evaluate.elbo(*args, num_samples=50, **habit.batch).mean()
    run = train(habit, epochs=25, lr=0.05, batch_size=8)
    after = pv.evaluate.elbo(*args, num_samples=50, **habit.batch).mean()
    assert after > before + 0.2
    assert len(run.history) == 25


def test_a_model_samples_given_a_datum_for_its_shape(habit):
    with pytest.raises(pv.UserError, match="pass example="):
        pv.sample(habit.model, 3)
    options = {"example": habit.batch, "site": habit.site}
    draws = pv.sample(habit.model, 2000, seed=0, **options)
    assert draws.shape == (2000, *event_shape(habit))
    means = pv.sample(habit.model, 2000, seed=1, mean=True, **options)
    torch.testing.assert_close(draws.mean(0), means.mean(0), atol=0.2, rtol=0)


def test_networks_used_by_functions_are_put_in_eval_mode():
    """Dropout in a network that a function names is off in evaluation, and on again after it."""
    vae = build("vae")
    x, owner = vae.batch["x"], vae.modules[0]
    assert pv.programs.modules.find_modules(vae.model, vae.guide) == [owner]
    torch.testing.assert_close(
        *(pv.evaluate.reconstruct(vae.model, vae.guide, x, site="obs") for _ in range(2)),
        rtol=0,
        atol=0,
    )
    assert owner.decoder.training
    easy = build("easy_guide")
    assert set(pv.programs.modules.find_modules(easy.model, easy.guide)) == set(easy.modules)


def test_lazy_parameters_come_from_the_callers_seed():
    """Lazy parameters are drawn from the stream that the caller left, not from that of the check."""
    x, first = build("vae").batch["x"], []

    def model(x):
        w = pyro.param("w", lambda: torch.randn(2, x.shape[1]))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=z @ w).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

    for seed in (1, 2):
        pyro.clear_param_store()
        torch.manual_seed(seed)
        pv.check_pair(model, guide, x)
        first.append(pyro.param("w").detach().clone())
    assert not torch.equal(*first)


@pytest.mark.parametrize("known_to_pyro", [False, True])
def test_lazy_modules_train_and_pyros_own_limit_is_one_line(known_to_pyro):
    """Pyro cannot register a parameter that has no shape yet."""
    enc, dec = nn.LazyLinear(2), nn.LazyLinear(6)

    def model(x):
        if known_to_pyro:
            pyro.module("dec", dec)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=dec(z)).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(enc(x), 1.0).to_event(1))

    x = build("vae").batch["x"]
    if known_to_pyro:
        with pytest.raises(pv.UserError, match="a lazy module .* call it once") as error:
            pv.fit(model, guide, x, 1, progress=False)
        assert_one_line(error.value)
        dec(torch.zeros(1, 2))
    run = pv.fit(model, guide, x, 30, lr=0.05, progress=False)
    assert run.history[-1]["loss"] < run.history[0]["loss"]


def test_labels_are_observed_by_the_models_own_name_for_them():
    """log p(x, y) of every y sums to log p(x); labels train by the objective, under that name."""
    pair = build("ss_vae_labels_as_numbers")
    model, guide, x = pair.model, pair.guide, pair.batch["x"]
    bound = pv.evaluate.log_likelihood(model, guide, x, num_samples=3000)
    parts = [
        pv.evaluate.log_likelihood(model, guide, x, num_samples=3000, ys=torch.full((N,), k))
        for k in range(K)
    ]
    torch.testing.assert_close(torch.stack(parts).logsumexp(0), bound, atol=0.05, rtol=0)
    y = torch.arange(N) % 2
    y[8:] = -1
    objective = pv.objectives.SemiSupervised(alpha=1.0)
    pv.fit(
        model, guide, (x, y), epochs=40, lr=0.04, batch_size=10, objective=objective, progress=False
    )
    predicted = pv.evaluate.responsibilities(model, guide, x).argmax(-1)
    assert (predicted == torch.arange(N) % 2).double().mean() > 0.85


def test_labels_by_a_name_that_nobody_takes_are_refused():
    pair = build("ss_vae_labels_as_numbers")
    labels = torch.zeros(N, dtype=torch.long)
    with pytest.raises(pv.UserError, match="neither model nor guide takes 'y'; did you mean 'ys'"):
        pv.fit(pair.model, pair.guide, (pair.batch["x"], labels), observed=("x", "y"))


def test_an_auto_guide_whose_rows_would_miss_their_data_is_refused():
    x = build("vae").batch["x"]
    model = pv.models.VAE((x.shape[1],), 2)
    with pytest.raises(
        pv.UserError, match=r"pv.guides.PerDatumAutoGuide\(AutoNormal, model, num_data=N\)"
    ):
        pv.fit(model, AutoNormal(model), x, epochs=1, batch_size=4, progress=False)


def test_an_auto_normal_meets_its_own_data_in_any_order():
    """Rows by `create_plates` and `index`, fitted to shuffled minibatches: each its own."""
    x = torch.randn(N, 1, generator=torch.Generator().manual_seed(3))

    def plate(x, index=None):
        return pyro.plate("data", N, subsample=index, dim=-1)

    def model(x, index=None):
        with plate(x, index):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1), 0.5).to_event(1), obs=x)

    guide = AutoNormal(model, create_plates=plate)
    options = {"lr": 0.1, "batch_size": 7, "schedule": "cosine", "progress": False}
    pv.fit(model, guide, x, epochs=60, **options)
    code = pv.evaluate.encode(model, guide, x, index=torch.arange(N))["z"]
    torch.testing.assert_close(code, 0.8 * x[:, 0], atol=0.35, rtol=0)


class TokenMixture(nn.Module):
    """y ~ Categorical, 3 tokens of 5 given y; the guide's q(y | tokens) is from an embedding."""

    def __init__(self, with_z=False):
        super().__init__()
        torch.manual_seed(0)
        self.logits, self.with_z = nn.Parameter(torch.randn(2, 5)), with_z
        self.embedding, self.head = nn.Embedding(5, 4), nn.Linear(4, 2)

    def features(self, tokens):
        return self.head(self.embedding(tokens.long()).mean(-2))

    def model(self, tokens):
        pyro.module("mixture", self)
        with pyro.plate("data", len(tokens)):
            if self.with_z:
                pyro.sample("z", dist.Normal(tokens.new_zeros(2), 1.0).to_event(1))
            y = pyro.sample(
                "y", dist.Categorical(torch.tensor([0.4, 0.6])), infer={"enumerate": "parallel"}
            )
            logits = self.logits[y].unsqueeze(-2).expand(*y.shape, 3, 5)
            pyro.sample("x", dist.Categorical(logits=logits).to_event(1), obs=tokens)

    def guide(self, tokens):
        pyro.module("mixture", self)
        with pyro.plate("data", len(tokens)):
            if self.with_z:
                pyro.sample("z", dist.Normal(self.features(tokens), 1.0).to_event(1))
            q = dist.Categorical(logits=self.features(tokens))
            pyro.sample("y", q, infer={"enumerate": "parallel"})

    def exact(self, tokens):
        """`(ELBO, log p(x))` of each row."""
        with torch.no_grad():
            log_x = self.logits.log_softmax(-1)[:, tokens].sum(-1).T
            joint = log_x + torch.tensor([0.4, 0.6]).log()
            log_q = self.features(tokens).log_softmax(-1)
            return (log_q.exp() * (joint - log_q)).sum(-1), joint.logsumexp(-1)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.float32])
def test_tokens_of_an_embedding_are_the_same_in_training_and_evaluation(dtype):
    tokens = torch.randint(0, 5, (20, 3), generator=torch.Generator().manual_seed(1))
    given, program = tokens.to(dtype), TokenMixture()
    options = {"epochs": 1, "lr": 1e-12, "progress": False, "device": "cpu"}
    row = pv.compare(
        lambda: program.model, {"own": lambda model: program.guide}, given,
        seeds=1, num_samples=10, num_gap_data=0, **options,
    ).rows[0]  # fmt: skip
    elbo, log_x = program.exact(tokens)
    assert row["elbo"] == pytest.approx(float(elbo.mean()), abs=1e-4)
    assert row["log_likelihood"] == pytest.approx(float(log_x.mean()), abs=1e-4)
    for arrays in (given, {"tokens": given}):
        run = pv.fit(program.model, program.guide, arrays, **options)
        assert run.history[-1]["loss"] == pytest.approx(-float(elbo.mean()), abs=1e-4)
    pv.fit(program.model, program.guide, given, epochs=2, progress=False, device="cpu")
    elbo, log_x = program.exact(tokens)
    pair = program.model, program.guide, given
    torch.testing.assert_close(pv.evaluate.elbo(*pair), elbo)
    torch.testing.assert_close(pv.evaluate.log_likelihood(*pair, num_samples=3), log_x)
    with_z = TokenMixture(with_z=True)
    code = pv.evaluate.encode(with_z.model, with_z.guide, given)["z"]
    torch.testing.assert_close(code, with_z.features(tokens).detach())
    assert pv.sample(program.model, 4, example={"x": given}).shape == (4, 3)


def test_an_example_has_the_numbers_that_training_has():
    seen = []

    def model(x):
        seen.append(x.dtype)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Poisson(z.exp().expand(-1, 2)).to_event(1), obs=x)

    def guide(x):
        seen.append(x.dtype)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.1 * x.mean(-1, keepdim=True), 0.5).to_event(1))

    counts = torch.randint(0, 4, (20, 2))
    pv.sample(model, 3, example={"x": counts})
    options = {"num_data": 8, "num_samples": 19, "example": {"x": counts}}
    pv.diagnostics.simulation_based_calibration(model, guide, **options)
    assert set(seen) == {torch.float32}


def test_an_embedding_of_floats_is_refused_with_the_remedy():
    program = TokenMixture()
    embedding = nn.Embedding(5, 2)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Categorical(logits=embedding(x).mean(-2)))

    with pytest.raises(pv.UserError, match=r"the program takes x\.long\(\)"):
        pv.check_pair(program.model, guide, torch.randint(0, 5, (20, 3)))


@pytest.mark.parametrize("num_samples", [1, 7, 50, 100])
def test_a_plate_that_takes_some_of_the_rows_is_refused(num_samples):
    """With as many draws as it takes rows, its rows would pass for draws."""

    def model(x):
        with pyro.plate("data", len(x), subsample_size=min(50, len(x))) as rows:
            z = pyro.sample("z", dist.Normal(torch.zeros(len(rows), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.expand(-1, 3), 1.0).to_event(1), obs=x[rows])

    def guide(x):
        weight = pyro.param("weight", torch.zeros(3, 1))
        with pyro.plate("data", len(x), subsample_size=min(50, len(x))) as rows:
            pyro.sample("z", dist.Normal(x[rows] @ weight, 1.0).to_event(1))

    x = torch.randn(500, 3)
    calls = {
        "elbo": lambda: pv.evaluate.elbo(model, guide, x, num_samples),
        "log_likelihood": lambda: pv.evaluate.log_likelihood(model, guide, x, num_samples),
        "importance_weights": lambda: pv.diagnostics.importance_weights(
            model, guide, x, num_samples
        ),
        "aggregate_posterior": lambda: pv.evaluate.aggregate_posterior(
            model, guide, x, draws=num_samples
        ),
        "encode": lambda: pv.evaluate.encode(model, guide, x),
        "fit": lambda: pv.fit(model, guide, x, 1, progress=False),
    }
    for name, call in calls.items():
        with pytest.raises(pv.UserError, match="'data' takes 50 of the") as error:
            print(name)
            call()
        assert_one_line(error.value)
    pyro.clear_param_store()
