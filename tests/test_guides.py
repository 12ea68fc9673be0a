"""A declared guide is the guide that one would write by hand."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from problems import rows_of
from pyro import poutine

import pyro_vae as pv
from pyro_vae.conditionals import MLP, MultivariateNormal
from pyro_vae.programs import trace_pair
from pyro_vae.programs.calling import as_keyword_program

D, K, LATENT, N = 6, 3, 2, 7
NET = MLP(hidden=(5, 4), activation="tanh")
SHU = {"y": ["x"], "z": ["x", "y"]}
V1 = {"w": ["x"], "z": ["x"], "y": ["x"]}


def vae():
    return pv.models.VAE((D,), LATENT, network=NET).double()


def mixture_vae():
    return pv.models.MixtureVAE((D,), K, LATENT, network=NET).double()


def gmvae():
    return pv.models.GMVAE((D,), K, LATENT, w_dim=2, network=NET).double()


def binary(n=N, seed=1):
    torch.manual_seed(seed)
    return torch.bernoulli(torch.full((n, D), 0.5, dtype=torch.float64))


def loss_and_gradients(model, guide, parameters, seed=3, **batch):
    torch.manual_seed(seed)
    elbo = pyro.infer.TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)
    loss = elbo.differentiable_loss(as_keyword_program(model), as_keyword_program(guide), **batch)
    return loss, torch.autograd.grad(loss, parameters)


# ------------------------------------------- each row of the design's table, by hand


def encode(q, x, y=None):
    """The trunk, layer by layer: W x + V y + b, tanh, linear, tanh."""
    first, (_, second, _) = q.trunk.first, q.trunk.rest
    h = x @ first.maps["x"].weight.T + first.bias
    if y is not None:
        h = h + y @ first.maps["y"].weight.T
    return torch.tanh(second(torch.tanh(h)))


def out(q, h):
    return h @ q.head.maps["features"].weight.T + q.head.bias


def normal(raw):
    loc, log_scale = raw.chunk(2, -1)
    return dist.Normal(loc, (7 * torch.tanh(log_scale / 7)).exp()).to_event(1)


SUM = {"enumerate": "parallel"}


def amortized(q):
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", normal(out(q["z"], encode(q["z"], x))))

    return guide


def constants(q):
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", normal(q["z"].head.bias))

    return guide


def per_datum(q):
    def guide(x, index):
        head = q["z"].head
        with pyro.plate("data", len(x)):
            pyro.sample("z", normal(head.maps["index"].rows[index] + head.bias))

    return guide


def shu(q):
    def guide(x):
        with pyro.plate("data", len(x)):
            logits = out(q["y"], encode(q["y"], x))
            y = pyro.sample("y", dist.OneHotCategorical(logits=logits), infer=SUM)
            pyro.sample("z", normal(out(q["z"], encode(q["z"], x, y))))

    return guide


def final_version(q):
    def guide(x):
        h = encode(q["w"], x)  # one encoder, two heads
        with pyro.plate("data", len(x)):
            pyro.sample("w", normal(out(q["w"], h)))
            pyro.sample("z", normal(out(q["z"], h)))

    return guide


def first_version(q):
    def guide(x):
        h = encode(q["w"], x)
        with pyro.plate("data", len(x)):
            pyro.sample("w", normal(out(q["w"], h)))
            pyro.sample("z", normal(out(q["z"], h)))
            y = dist.OneHotCategorical(logits=out(q["y"], h))
            pyro.sample("y", y, infer=SUM)

    return guide


ROWS = {
    "VAE: z <- x": (vae, None, amortized),
    "z <- nothing": (vae, {"z": []}, constants),
    "z <- index": (vae, {"z": ["index"]}, per_datum),
    "VaDE: z <- x": (mixture_vae, None, amortized),
    "Shu: y <- x; z <- x, y": (mixture_vae, SHU, shu),
    "GMVAE: w <- x; z <- x": (gmvae, None, final_version),
    "GMVAE, first version": (gmvae, V1, first_version),
}


@pytest.mark.parametrize("row", ROWS)
def test_the_declared_guide_is_the_one_spelled_out_by_hand(row):
    make, given, write = ROWS[row]
    model = make()
    guide = pv.guides.Guide(model, given, network=NET, num_data=rows_of(given, 20)).double()
    with torch.no_grad():
        for parameter in guide.parameters():  # constants and tables start at zero
            parameter.add_(0.3 * torch.randn(parameter.shape))
    batch = {"x": binary()}
    if given == {"z": ["index"]}:
        batch["index"] = torch.tensor([3, 1, 4, 15, 9, 2, 6])
    parameters = [*model.parameters(), *guide.parameters()]
    loss, gradients = loss_and_gradients(model, guide, parameters, **batch)
    by_hand, expected = loss_and_gradients(model, write(guide.factors), parameters, **batch)
    torch.testing.assert_close(loss, by_hand, rtol=1e-12, atol=0)
    for a, b in zip(gradients, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
        assert a.abs().sum() > 0


# ------------------------------------------------------------ what a declaration means


def test_given_replaces_the_papers_guide_whole():
    guide = pv.guides.Guide(mixture_vae(), SHU)
    assert guide.given == {"y": ("x",), "z": ("x", "y")}
    assert "y <- x; z <- x, y" in repr(guide)
    assert pv.guides.Guide(mixture_vae()).given == {"z": ("x",)}


def test_parents_may_be_latents_sampled_before():
    model, x = gmvae(), binary()
    guide = pv.guides.Guide(model, {"z": ["x"], "w": ["z"], "y": ["w", "z"]}, network=NET).double()
    parameters = [*model.parameters(), *guide.parameters()]
    loss, gradients = loss_and_gradients(model, guide, parameters, x=x)
    assert torch.isfinite(loss) and all(g.abs().sum() > 0 for g in gradients)


def test_a_full_covariance_guide_is_asked_for_by_family():
    guide = pv.guides.Guide(vae(), family={"z": MultivariateNormal()}, network=NET).double()
    fn = guide.factors["z"](x=binary())
    assert isinstance(fn, dist.MultivariateNormal) and fn.batch_shape == (N,)
    assert fn.covariance_matrix[0, 0, 1] != 0


def test_latents_with_the_same_parents_share_a_trunk_by_default():
    model = gmvae()
    shared = pv.guides.Guide(model, V1, network=NET)
    isolated_pyro_runtime = pv.guides.Guide(model, V1, network=NET, share_trunk=False)
    w, z, y = (shared.factors[name].trunk for name in "wzy")
    assert w is z is y
    assert isolated_pyro_runtime.factors["w"].trunk is not isolated_pyro_runtime.factors["z"].trunk
    count = sum(p.numel() for p in shared.parameters())
    trunk = sum(p.numel() for p in w.parameters())
    assert sum(p.numel() for p in isolated_pyro_runtime.parameters()) == count + 2 * trunk
    other = pv.guides.Guide(mixture_vae(), SHU, network=NET)  # different parents: nothing to share
    assert other.factors["y"].trunk is not other.factors["z"].trunk


def test_a_shared_trunk_runs_once_a_step():
    model = gmvae()
    guide = pv.guides.Guide(model, V1, network=NET).double()
    calls = []
    guide.factors["w"].trunk.register_forward_hook(lambda *_: calls.append(1))
    guide(x=binary())
    assert len(calls) == 1


def test_a_table_learns_only_the_rows_of_the_batch():
    model = vae()
    guide = pv.guides.Guide(model, {"z": ["index"]}, num_data=10).double()
    index = torch.tensor([7, 2, 5])
    rows = guide.factors["z"].head.maps["index"].rows
    _, (gradient,) = loss_and_gradients(model, guide, [rows], x=binary(3), index=index)
    touched = gradient.abs().sum(1) > 0
    assert sorted(touched.nonzero()[:, 0].tolist()) == [2, 5, 7]


def test_after_fit_the_tables_row_i_is_the_callers_datum_i():
    torch.manual_seed(0)
    decoder = MLP(hidden=())
    model = pv.models.VAE((D,), LATENT, pv.conditionals.NormalLikelihood(scale=0.1), decoder)
    x = model(size=12).detach()
    guide = pv.guides.Guide(model, {"z": ["index"]}, num_data=12)
    pv.fit(model, guide, x, epochs=300, lr=0.03, progress=False)
    index = torch.arange(12)
    right = pv.evaluate.elbo(model, guide, x, index=index, num_samples=10).mean()
    wrong = pv.evaluate.elbo(model, guide, x, index=index.roll(1), num_samples=10).mean()
    assert right > wrong + 10
    rebuilt = pv.evaluate.reconstruct(model, guide, x, index=index)
    assert (rebuilt - x).abs().mean() < 0.2


def test_a_table_needs_an_index_when_it_is_called():
    guide = pv.guides.Guide(vae(), {"z": ["index"]}, num_data=10)
    with pytest.raises(pv.UserError, match="'z' has a row for each training data point"):
        guide(x=binary())


def test_an_observed_latent_is_not_sampled():
    guide = pv.guides.Guide(mixture_vae(), SHU, network=NET).double()
    y = F.one_hot(torch.arange(N) % K, K).double()
    trace = poutine.trace(guide).get_trace(x=binary(), y=y)
    assert "z" in trace and "y" not in trace


def test_a_guide_for_a_users_own_model_reads_its_sites_from_an_example():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            pyro.sample(
                "x",
                dist.Normal(z.sum(-1, keepdim=True), 1.0).expand([len(x), D]).to_event(1),
                obs=x,
            )

    x = torch.randn(4, D)
    guide = pv.guides.Guide(model, {"z": ["x"]}, network=NET, example={"x": x})
    assert guide.factors["z"].shape == (3,)
    pv.check_pair(model, guide, x)
    with pytest.raises(pv.UserError, match="example="):
        pv.guides.Guide(model, {"z": ["x"]})
    with pytest.raises(pv.UserError, match="no default guide"):
        pv.guides.Guide(model, example={"x": x})


# ------------------------------------------------------------------ one-line mistakes


@pytest.mark.parametrize(
    "make, given, options, message",
    [
        (vae, {"zz": ["x"]}, {}, "unknown latent 'zz'; did you mean 'z'?"),
        (gmvae, {"w": ["x"], "z": ["xs"]}, {}, "unknown parent 'xs'; did you mean 'x'?"),
        (gmvae, {"z": ["x", "w"], "w": ["x"]}, {}, "'z' has the parent 'w', which is sampled after it"),
        (gmvae, {"z": ["w"]}, {}, "'z' has the parent 'w', which the guide leaves out"),
        (gmvae, {"z": ["x"]}, {}, "leaves out 'w', which is continuous"),
        (vae, {}, {}, "leaves out 'z', which is continuous"),
        (vae, {"z": ["index"]}, {}, "pass num_data="),
        (vae, None, {"discrete": "sum"}, "unknown treatment of discrete latents 'sum'"),
        (vae, None, {"discrete": "relax"}, "did you mean 'relaxed'?"),
        (vae, None, {"family": {"y": MultivariateNormal()}}, "unknown latent in family 'y'"),
    ],
)  # fmt: skip
def test_a_wrong_declaration_raises_one_line(make, given, options, message):
    with pytest.raises(pv.UserError) as error:
        pv.guides.Guide(make(), given, **options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


# ------------------------------------------------------- three treatments of a named y


def shu_guides(model):
    """One set of weights, three treatments."""
    guides = {}
    for discrete in ("enumerate", "score_function", "relaxed"):
        guides[discrete] = pv.guides.Guide(model, SHU, network=NET, discrete=discrete).double()
        guides[discrete].load_state_dict(guides["enumerate"].state_dict())
    return guides


def replicates(model, guide, x, parameters, times=60, rows=300, objective=None):
    """Loss and gradient per data point, `[times, 1 + P]`: means over `rows` copies of one data point."""
    many, actual = x.expand(rows, D), []
    objective = objective or pv.objectives.ELBO()
    for seed in range(times):
        torch.manual_seed(seed)
        loss = objective.differentiable_loss(model, guide, many) / rows
        gradients = torch.autograd.grad(loss, parameters)
        actual.append(torch.cat([loss.detach()[None], *[g.flatten() for g in gradients]]))
    return torch.stack(actual)


def agree(a, b, sigmas=5.0):
    error = ((a.var(0) + b.var(0)) / len(a)).sqrt()
    return ((a.mean(0) - b.mean(0)).abs() <= sigmas * error + 1e-12).all()


@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_the_score_functions_mean_is_the_exact_sum_over_y(beta):
    model, x = mixture_vae(), binary(1)
    guides = shu_guides(model)
    objective = pv.objectives.ELBO(beta=beta)
    summed, sampled = (
        replicates(
            model, guides[kind], x, [*model.parameters(), *guides[kind].parameters()],
            objective=objective,
        )
        for kind in ("enumerate", "score_function")
    )  # fmt: skip
    assert agree(summed, sampled)
    # the test can fail: the gradient of q(y | x) is not lost in the noise ...
    noise = (sampled.var(0) / len(sampled)).sqrt()
    assert (summed.mean(0).abs() > 10 * noise).sum() > 10
    assert not agree(summed * 1.2, sampled)
    # ... and the sum has less of it
    assert summed.var(0).sum() < sampled.var(0).sum()


def test_a_relaxed_y_trains_and_reaches_every_parameter():
    torch.set_default_dtype(torch.float64)
    model = mixture_vae()
    guide = shu_guides(model)["relaxed"]
    x = binary(64)
    losses = []
    for _ in range(2):
        run_ = pv.fit(model, guide, x, epochs=15, lr=1e-2, batch_size=32, progress=False)
        losses += [row["loss"] for row in run_.history]
    assert losses[-1] < losses[0] - 0.1
    model.train(), guide.train()
    parameters = [*model.parameters(), *guide.parameters()]
    with pyro.validation_enabled(False):
        _, gradients = loss_and_gradients(model, guide, parameters, x=x)
    assert all(g.abs().sum() > 0 for g in gradients)


def test_a_relaxed_y_trains_under_pyros_validation():
    """Its values are in no categorical's support, yet nothing is refused and nothing changes."""
    model, x = mixture_vae(), binary()
    guide = shu_guides(model)["relaxed"]
    parameters, actual = [*model.parameters(), *guide.parameters()], []
    for validate in (False, True):
        with pyro.validation_enabled(validate):
            actual.append(loss_and_gradients(model, guide, parameters, x=x))
    torch.testing.assert_close(actual[1], actual[0], rtol=0, atol=0)
    assert all(g.abs().sum() > 0 for g in actual[1][1])


def test_a_relaxed_y_nears_a_vertex_of_the_simplex_as_its_temperature_falls():
    model, x = mixture_vae(), binary(200)
    largest = []
    for temperature in (2.0, 0.5, 0.05):
        guide = pv.guides.Guide(
            model, SHU, network=NET, discrete="relaxed", temperature=temperature
        ).double()
        y = guide(x=x)["y"]
        torch.testing.assert_close(y.sum(-1), torch.ones_like(y[:, 0]))
        largest.append(y.max(-1).values.mean())
    assert largest[0] < largest[1] < largest[2] and largest[2] > 0.95


def test_in_eval_mode_y_is_summed_however_it_was_trained():
    model, x = mixture_vae(), binary()
    guides = shu_guides(model)
    bounds = [pv.evaluate.elbo(model, g, x) for g in guides.values()]
    for other in bounds[1:]:
        torch.testing.assert_close(bounds[0], other, rtol=1e-12, atol=0)
    for guide in guides.values():
        assert guide.training  # evaluation puts the mode back
        traces = trace_pair(model, guide.eval(), {"x": x})
        assert set(traces.enumerated_guide) == {"y"} and not traces.enumerated_model


def test_pyros_own_elbo_sums_y_in_eval_mode_too():
    model, x = mixture_vae(), binary()
    guides = shu_guides(model)
    parameters = list(model.parameters())
    losses = [loss_and_gradients(model, g.eval(), parameters, x=x)[0] for g in guides.values()]
    assert torch.equal(losses[0], losses[1]) and torch.equal(losses[0], losses[2])


def test_an_enumerated_y_never_copies_x():
    """x meets y as [B, H] + [K, 1, H]: the map of x sees B rows, not K times B."""
    model = mixture_vae()
    guide = pv.guides.Guide(model, SHU, network=NET).double()
    rows = {}
    for name, linear in guide.factors["z"].trunk.first.maps.items():
        linear.register_forward_hook(lambda _, i, o, name=name: rows.update({name: o.numel()}))
    loss_and_gradients(model, guide, list(guide.parameters()), x=binary())
    assert rows == {"x": N * 5, "y": K * 5}


def test_the_relaxed_score_is_the_categorical_mass_at_a_vertex():
    model, x = mixture_vae(), binary()
    guide = shu_guides(model)["relaxed"]
    relaxed = guide.relaxation((K,), logits=guide.factors["y"](x=x).logits)
    for k in range(K):
        vertex = F.one_hot(torch.tensor(k), K).double().expand(N, K)
        mass = dist.OneHotCategorical(logits=guide.factors["y"](x=x).logits).log_prob(vertex)
        torch.testing.assert_close(relaxed.log_prob(vertex), mass)
    assert math.isclose(relaxed.temperature.item(), 0.5)


def test_standardized_parents_are_what_the_networks_see():
    """A guide that standardizes x equals one that is given the standardized x."""
    torch.manual_seed(0)
    model = pv.models.VAE((4,), 2, "normal", MLP((8,)))
    plain = pv.guides.Guide(model, network=MLP((8,)))
    centered = pv.guides.Guide(model, network=MLP((8,)), input_scaling={"x": (0.5, 0.25)})
    centered.load_state_dict(plain.state_dict())
    x = torch.rand(5, 4)
    codes = pv.evaluate.encode(model, centered, x)["z"]
    assert torch.allclose(codes, pv.evaluate.encode(model, plain, (x - 0.5) / 0.25)["z"])
    with pytest.raises(pv.UserError, match="unknown parent in input_scaling 'xx'"):
        pv.guides.Guide(model, input_scaling={"xx": (0, 1)})


@pytest.mark.parametrize(
    "shape, likelihood, options, expected",
    [
        ((1, 4, 4), "bernoulli", {}, {"x": (0.5, 0.5)}),
        ((1, 4, 4), "binomial", {}, {"x": (0.5, 0.5)}),
        ((1, 4, 4), "binomial", {"input_scaling": {}}, {}),
        ((1, 4, 4), "binomial", {"given": {"z": []}}, {}),
        ((1, 4, 4), "normal", {}, {}),
        ((1, 4, 4), "poisson", {}, {}),
        ((16,), "binomial", {}, {}),
    ],
)
def test_images_in_the_unit_interval_are_centered_by_default(shape, likelihood, options, expected):
    """The networks see 2x - 1."""
    model = pv.models.VAE(shape, 2, likelihood, MLP((8,)))
    guide = pv.guides.Guide(model, network=MLP((8,)), **options)
    assert guide.input_scaling == expected
    if expected:
        x = torch.rand(5, *shape)
        codes = guide.factors["z"](x=2 * x - 1).mean
        torch.testing.assert_close(pv.evaluate.encode(model, guide, x)["z"], codes)
