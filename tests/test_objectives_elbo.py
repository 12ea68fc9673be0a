"""The ELBO is Pyro's; its weights and constraints are what their equations say."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from objectives import Coins, FixedNoise, gradients
from presets import built
from sampling import covering

import pyro_vae as pv
from pyro_vae import methods
from pyro_vae.objectives import ELBO, IWAE
from pyro_vae.programs import trace_pair
from pyro_vae.programs.calling import as_keyword_program

X_SHAPE, N = (1, 4, 4), 6
TINY = {
    "latent_dim": 2, "w_dim": 2, "num_components": 3, "num_classes": 3, "hidden": [5], "activation": "tanh",
    "likelihood": "bernoulli",
}  # fmt: skip


def pair(name, seed=0, **overrides):
    """A method's pair in float64, away from the zeros that tables and weights start at."""
    torch.manual_seed(seed)
    overrides = {**TINY, **overrides}
    model, guide = built(name, X_SHAPE, overrides=overrides, num_data=20, c_shape=(3,))
    for module in (model, guide):
        module.double()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape))
    return model, guide


def batch(seed=1):
    gray = torch.full((N, *X_SHAPE), 0.5, dtype=torch.float64)
    x = torch.bernoulli(gray, generator=torch.Generator().manual_seed(seed))
    c = torch.randn(N, 3, dtype=x.dtype, generator=torch.Generator().manual_seed(seed))
    return {"x": x, "c": c, "index": torch.arange(N) + 3}


def trained_parameters(model, guide):
    return [p for m in (model, guide) for p in m.parameters() if p.requires_grad]


def value_and_gradients(objective, model, guide, seed=3):
    torch.manual_seed(seed)
    programs = as_keyword_program(model), as_keyword_program(guide)
    loss = objective.differentiable_loss(*programs, **batch())
    parameters = trained_parameters(model, guide)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    zero = [
        torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)
    ]
    return loss.detach(), zero


def terms_of(model, guide, seed=3, num_particles=None):
    """`{site: [N]}` with the noise of `value_and_gradients`."""
    torch.manual_seed(seed)
    return trace_pair(model, guide, batch(), num_particles).site_terms()


def assert_same(a, b, rtol=1e-10):
    torch.testing.assert_close(a[0], b[0], rtol=rtol, atol=0)
    for one, other in zip(a[1], b[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


# -------------------------------------------------------------------- Pyro's own ELBO


@pytest.mark.parametrize("name, num_particles", covering(list(methods.METHODS), [1, 3], every=4))
def test_without_settings_it_is_pyros_trace_enum_elbo(name, num_particles):
    model, guide = pair(name)
    ours = value_and_gradients(ELBO(num_particles=num_particles), model, guide)
    pyros = pyro.infer.TraceEnum_ELBO(
        num_particles=num_particles,
        vectorize_particles=num_particles > 1,
        max_plate_nesting=1,
        strict_enumeration_warning=False,
    )
    assert_same(ours, value_and_gradients(pyros, model, guide), rtol=1e-14)


@pytest.mark.parametrize("name", covering(list(methods.METHODS), every=3))
def test_minus_the_elbo_is_what_evaluation_reports(name):
    model, guide = pair(name)
    loss, _ = value_and_gradients(ELBO(), model, guide)
    torch.testing.assert_close(
        -sum(terms_of(model, guide).values()).sum(), loss, rtol=1e-12, atol=0
    )


@pytest.mark.parametrize(
    "name, num_particles", covering(list(methods.METHODS), [1, 3], every=4, first=2)
)
def test_the_weighted_sum_at_beta_one_is_the_elbo_with_every_gradient(name, num_particles):
    model, guide = pair(name)
    plain = value_and_gradients(ELBO(num_particles=num_particles), model, guide)
    weighted = ELBO(beta=1 + 1e-13, num_particles=num_particles)
    assert_same(plain, value_and_gradients(weighted, model, guide))


# ----------------------------------------------------------------------------- weights


@pytest.mark.parametrize("name", covering(list(methods.METHODS), every=3, first=1))
def test_beta_weighs_each_latents_kl(name):
    model, guide = pair(name)
    terms = terms_of(model, guide)
    latents = sorted(set(terms) - {"x"})
    beta = {latent: 0.25 * (i + 1) for i, latent in enumerate(latents)}
    expected = -terms["x"].sum() - sum(b * terms[latent].sum() for latent, b in beta.items())
    loss, gradients = value_and_gradients(ELBO(beta=beta), model, guide)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    parameters = trained_parameters(model, guide)
    by_hand = torch.autograd.grad(expected, parameters, allow_unused=True)
    for g, h in zip(gradients, by_hand, strict=True):
        torch.testing.assert_close(
            g, torch.zeros_like(g) if h is None else h, rtol=1e-8, atol=1e-10
        )


def test_one_beta_weighs_every_latent():
    model, guide = pair("gmvae")
    one = value_and_gradients(ELBO(beta=0.5), model, guide)
    each = value_and_gradients(ELBO(beta={"w": 0.5, "y": 0.5, "z": 0.5}), model, guide)
    assert_same(one, each, rtol=1e-14)


def test_particles_are_averaged_before_they_are_weighed():
    model, guide = pair("gmvae-v1")
    torch.manual_seed(3)
    programs = as_keyword_program(model), as_keyword_program(guide)
    loss = ELBO(beta=0.5, num_particles=4).differentiable_loss(*programs, **batch())
    terms = terms_of(model, guide, num_particles=4)
    size = (4, N)
    expected = -terms.pop("x").expand(size).mean(0).sum()
    expected = expected - sum(0.5 * t.expand(size).mean(0).sum() for t in terms.values())
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)


def test_warm_up_rises_linearly_by_epoch_and_ends():
    objective = ELBO(beta=0.8, warmup=4, warmup_start=0.2)
    values = []
    for epoch in (0, 1, 2, 3, 4, 100):
        objective.epoch = epoch
        values.append(objective.current_beta("z"))
    assert values == pytest.approx([0.2, 0.35, 0.5, 0.65, 0.8, 0.8])


def test_warm_up_of_one_latent_leaves_the_others_alone():
    objective = ELBO(warmup={"z": 10})
    objective.epoch = 5
    assert objective.current_beta("z") == 0.5 and objective.current_beta("w") == 1.0
    model, guide = pair("gmvae")
    warm = value_and_gradients(objective, model, guide)
    assert_same(warm, value_and_gradients(ELBO(beta={"z": 0.5}), model, guide), rtol=1e-14)


def test_before_and_after_training_warm_up_is_over():
    model, guide = pair("vae")
    objective = ELBO(warmup=10)
    plain = value_and_gradients(ELBO(), model, guide)
    assert_same(plain, value_and_gradients(objective, model, guide), rtol=1e-14)


def test_fit_tells_the_objective_its_epoch():
    torch.set_default_dtype(torch.float64)
    model, guide = pair("vae")
    seen = []

    class Spy(ELBO):
        def current_beta(self, latent):
            seen.append((self.epoch, super().current_beta(latent)))
            return seen[-1][1]

    pv.fit(model, guide, batch()["x"], epochs=4, objective=Spy(warmup=2), progress=False)
    betas = {epoch: beta for epoch, beta in seen if math.isfinite(epoch)}
    assert betas == {0: 0.0, 1: 0.5, 2: 1.0, 3: 1.0}


# --------------------------------------------------------------------------- free bits


@pytest.mark.parametrize("name", ["vade", "shu-gmvae", "gmvae", "gmvae-v1"])
def test_below_the_constraint_a_kl_costs_the_constraint_and_pulls_at_nothing(name):
    model, guide = pair(name)
    terms = terms_of(model, guide)
    level = -terms["y"].mean().item() + 0.5  # above the KL that there is
    loss, gradients = value_and_gradients(ELBO(free_bits={"y": level}), model, guide)
    expected = -sum(t.sum() for k, t in terms.items() if k != "y") + N * level
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    _, without = value_and_gradients(ELBO(beta={"y": 0.0}), model, guide)
    for a, b in zip(gradients, without, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["vade", "shu-gmvae", "gmvae", "gmvae-v1"])
def test_above_the_constraint_nothing_changes(name):
    model, guide = pair(name)
    kl = -terms_of(model, guide)["y"].mean().item()
    assert kl > 0
    bound = value_and_gradients(ELBO(free_bits={"y": 0.9 * kl}), model, guide)
    assert_same(bound, value_and_gradients(ELBO(), model, guide))


def test_the_constraint_is_on_the_minibatchs_mean_kl():
    model, guide = pair("vae")
    kl = -terms_of(model, guide)["z"]
    between = kl.mean().item() - 1e-6
    assert (kl < between).any()  # some data lie below, their mean above: no change
    bound = value_and_gradients(ELBO(free_bits={"z": between}), model, guide)
    assert_same(bound, value_and_gradients(ELBO(), model, guide))


def test_evaluation_sees_neither_weights_nor_constraints():
    model, guide = pair("gmvae")
    x = batch()["x"]
    before = pv.evaluate.elbo(model, guide, x)
    objective = ELBO(beta=0.1, warmup=5, free_bits={"y": 3.0})
    objective.epoch = 0
    value_and_gradients(objective, model, guide)
    assert torch.equal(before, pv.evaluate.elbo(model, guide, x))


# ------------------------------------------------------------------- score function, SVI


def score_gradients(discrete, **options):
    """Of one image, 300 times: `[40, P]`, and which of them are q(y | x)'s alone."""
    model, guide = pair("gmvae-v1", discrete=discrete)
    data = {k: v[:1].expand(300, *v.shape[1:]) for k, v in batch().items()}
    parameters = trained_parameters(model, guide)
    q_y = {id(p) for p in guide.factors["y"].head.parameters()}
    own = torch.cat([torch.full((p.numel(),), id(p) in q_y) for p in parameters])
    return gradients(ELBO(**options), (model, guide), data, parameters), own


WEIGHTED = {"beta": {"y": 0.5, "z": 0.7, "w": 1.3}, "free_bits": {"z": 1e-3}}


@pytest.mark.parametrize(
    "weights, particles, leave_one_out_baseline",
    covering([{}, WEIGHTED], [1, 3], [False, True], every=2),
)
def test_a_score_function_gradient_has_the_exact_sums_mean(
    weights, particles, leave_one_out_baseline
):
    """y sampled, z beneath it, free bits not in force: the surrogate's mean is the sum's."""
    exact, q_y = score_gradients("enumerate", **weights)
    options = {"num_particles": particles, "leave_one_out_baseline": leave_one_out_baseline}
    sampled, _ = score_gradients("score_function", **options, **weights)
    error = ((exact.var(0) + sampled.var(0)) / len(exact)).sqrt()
    difference = (exact.mean(0) - sampled.mean(0)).abs()
    assert (difference <= 5 * error + 1e-12).all()
    assert (exact.mean(0)[q_y].abs() > 5 * error[q_y]).any()  # a lost gradient would be seen


@pytest.mark.parametrize("particles", [1, 4])
def test_the_leave_one_out_baseline_takes_noise_away(particles):
    torch.set_default_dtype(torch.float64)
    coins, noise = Coins(), []
    for leave_one_out_baseline in (False, True):
        objective = ELBO(num_particles=particles, leave_one_out_baseline=leave_one_out_baseline)
        x = {"x": torch.full((20,), 4.0)}
        actual = gradients(objective, (coins.model, coins.guide), x, [coins.guess])
        noise.append(actual.var(0).sum())
    assert noise[1] < 0.6 * noise[0]


def test_what_the_score_function_cannot_do_it_refuses():
    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
            y = pyro.sample("y", dist.Bernoulli(0.3 + 0.4 * a))
            pyro.sample("x", dist.Normal(y, 1.0), obs=x)

    logits = torch.zeros((), requires_grad=True)

    def guide(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
            pyro.sample("y", dist.Bernoulli(logits=logits + a))

    for objective in (ELBO(beta=0.5), IWAE()):
        with pytest.raises(pv.UserError, match="'y' is sampled without .* enumerate it too"):
            objective.differentiable_loss(model, guide, torch.zeros(3))

    def in_turn(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Bernoulli(0.5), infer={"enumerate": "sequential"})
            pyro.sample("y", dist.Bernoulli(logits=logits + a))

    with pytest.raises(pv.UserError, match="'y' is sampled without .* enumerate it too"):
        ELBO(beta=0.5).differentiable_loss(model, in_turn, torch.zeros(3))


@pytest.mark.parametrize("objective", [ELBO(), ELBO(beta=0.5)], ids=["plain", "weighted"])
def test_as_a_loss_of_svi_it_returns_a_number_and_leaves_gradients(objective):
    model, guide = pair("vade")
    x = batch()["x"]
    loss, gradients = value_and_gradients(objective, model, guide)
    torch.manual_seed(3)
    value = objective.loss_and_grads(model, guide, x)
    assert isinstance(value, float) and value == pytest.approx(loss.item(), rel=1e-12)
    for p, g in zip([*model.parameters(), *guide.parameters()], gradients, strict=True):
        torch.testing.assert_close(p.grad, g)
    torch.manual_seed(3)
    assert objective.loss(model, guide, x) == pytest.approx(value, rel=1e-12)


# ------------------------------------------------------------------- one-line mistakes


@pytest.mark.parametrize(
    "options", [{"beta": {"zz": 0.5}}, {"free_bits": {"zz": 1.0}}, {"free_bits": {"x": 1.0}}]
)
def test_a_latent_that_is_not_there_is_named(options):
    model, guide = pair("vade")
    name = next(iter(next(iter(options.values()))))
    with pytest.raises(
        pv.UserError, match=rf"no latent '{name}' in the model; it has \['y', 'z'\]"
    ):
        value_and_gradients(ELBO(**options), model, guide)


def test_warm_up_of_a_latent_that_is_not_there_is_named_before_training():
    torch.set_default_dtype(torch.float64)
    model, guide = pair("vade")
    with pytest.raises(pv.UserError, match="no latent 'zz'"):
        pv.fit(
            model, guide, batch()["x"], epochs=1, objective=ELBO(warmup={"zz": 5}), progress=False
        )


@pytest.mark.parametrize(
    "options",
    [
        {"beta": -1.0}, {"beta": {"z": -0.1}}, {"beta": math.nan}, {"warmup": -1},
        {"warmup": {"z": -1}}, {"free_bits": {"y": -1.0}}, {"beta": "4"}, {"warmup": None},
        {"beta": torch.tensor([1.0, 2.0])},
    ],
)  # fmt: skip
def test_negative_settings_are_refused(options):
    with pytest.raises(pv.UserError, match="must be (a )?non-negative"):
        ELBO(**options)


def test_zero_particles_raise():
    with pytest.raises(pv.UserError, match="num_particles must be an integer >= 1, got 0"):
        ELBO(num_particles=0)


def test_its_settings_are_described_for_the_record():
    described = ELBO(beta=0.5, warmup={"z": 3}, free_bits={"y": 1.0}, num_particles=2).describe()
    assert described == {
        "name": "elbo", "beta": 0.5, "warmup": {"z": 3}, "warmup_start": 0.0,
        "free_bits": {"y": 1.0}, "num_particles": 2, "analytic_kl": False,
    }  # fmt: skip


# ------------------------------------------------------------------ KL in closed form


def normal_kl(q):
    """KL(q || N(0, I)) of a diagonal normal, as Kingma and Welling's appendix B has it."""
    mean, variance = q.mean, q.variance
    return -0.5 * (1 + variance.log() - mean**2 - variance).sum(-1)


def by_hand(name, model, guide, x):
    """The loss with its KLs in closed form, of the same noise."""
    q = guide.factors
    with pyro.validation_enabled(False):
        if name == "vae":
            qz = q["z"](x=2 * x - 1)  # as the encoder sees it
            return (normal_kl(qz) - model.p_x(z=qz.rsample()).log_prob(x)).sum()
        y = torch.eye(3, dtype=x.dtype).unsqueeze(1)
        qy, qz = q["y"](x=2 * x - 1).probs.T, q["z"](x=2 * x - 1, y=y)
        log_px = model.p_x(y=y, z=qz.rsample()).log_prob(x)
        return (qy * (qy.log() + math.log(3) + normal_kl(qz) - log_px)).sum()


@pytest.mark.parametrize("name", ["vae", "m2"])
def test_an_analytic_kl_is_the_hand_written_one(name):
    model, guide = pair(name)
    loss, gradients = value_and_gradients(ELBO(analytic_kl=True), model, guide)
    torch.manual_seed(3)
    expected = by_hand(name, model, guide, batch()["x"])
    parameters = trained_parameters(model, guide)
    for actual, g in zip(gradients, torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(actual, g, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", covering(list(methods.METHODS), every=3))
def test_an_analytic_kl_has_the_mean_of_the_sampled_one(name):
    model, guide = pair(name)
    if not trained_parameters(model, guide) or not hasattr(guide, "factors"):
        pytest.skip("the prior is the guide: there is no KL")
    torch.manual_seed(0)
    traces = trace_pair(model, guide, batch(), 3000)
    with torch.no_grad():
        sampled, analytic = traces.site_terms(), traces.site_terms(analytic_kl=True)
    for site, a in sampled.items():
        difference = (a - analytic[site]).expand(3000, N)
        error = difference.std(0) / 3000**0.5
        assert (difference.mean(0).abs() <= 5 * error + 1e-9).all(), site


@pytest.mark.parametrize(
    "name, closed, sampled",
    [
        ("vae", {"z"}, set()),
        ("m2", {"z"}, set()),
        ("gmvae", {"w"}, {"z"}),
        ("vade", set(), {"z"}),
        ("hierarchical-vae", set(), {"z1"}),  # of p(z1 | z2), with z2 ~ q(z2 | z1)
    ],
)
def test_which_kls_are_analytic(name, closed, sampled):
    """Those without noise of their own; not that of a latent whose prior's y the model sums."""
    model, guide = pair(name)
    terms = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        terms.append(trace_pair(model, guide, batch()).site_terms(analytic_kl=True))
    for site in closed | sampled:
        assert torch.allclose(terms[0][site], terms[1][site]) == (site in closed)


def test_an_analytic_kl_knows_scales_and_particles():
    model, guide = pair("vae")
    once, _ = value_and_gradients(ELBO(beta=0.0, analytic_kl=True), model, guide)
    both, _ = value_and_gradients(ELBO(analytic_kl=True), model, guide)
    kl = normal_kl(guide.factors["z"](x=2 * batch()["x"] - 1)).sum()
    torch.testing.assert_close(both - once, kl.detach())
    scaled = pyro.poutine.scale(model, 3.0), pyro.poutine.scale(guide, 3.0)
    torch.manual_seed(3)
    three = ELBO(analytic_kl=True).differentiable_loss(
        *map(as_keyword_program, scaled), x=batch()["x"]
    )
    torch.testing.assert_close(three.detach(), 3 * both)
    many, _ = value_and_gradients(ELBO(analytic_kl=True, num_particles=5), model, guide)
    none, _ = value_and_gradients(ELBO(beta=0.0, analytic_kl=True, num_particles=5), model, guide)
    torch.testing.assert_close(many - none, kl.detach())


def test_a_guide_may_sample_a_latent_before_its_parent_in_the_model():
    """As `fit` runs it: with validation, Pyro takes such a y, which the model samples after z, as wrong."""
    centers, x = torch.tensor([-1.0, 1.0, 2.0]), torch.linspace(-2, 2, 5)
    logits = torch.nn.Parameter(torch.tensor([0.3, -0.2, 0.1]))

    def logits_of(z):
        return torch.stack([z, -z, 0 * z], -1)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            y = pyro.sample("y", dist.Categorical(logits=logits_of(z)))
            pyro.sample("x", dist.Normal(z + centers[y], 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            fn = dist.Categorical(logits=logits.expand(len(x), 3))
            y = pyro.sample("y", fn, infer={"enumerate": "parallel"})
            loc = (x - centers[y]) / 2
            pyro.sample("z", FixedNoise(loc, torch.full_like(loc, 0.8)))

    loc = (x.unsqueeze(-1) - centers) / 2  # [N, K]
    z = loc + 0.7 * 0.8
    log_q_y = logits.log_softmax(-1)
    terms = (
        dist.Normal(0.0, 1.0).log_prob(z)
        + torch.diagonal(logits_of(z).log_softmax(-1), dim1=-2, dim2=-1)
        + dist.Normal(z + centers, 1.0).log_prob(x.unsqueeze(-1))
        - log_q_y
        - dist.Normal(loc, 0.8).log_prob(z)
    )
    exact = -(log_q_y.exp() * terms).sum()
    with pyro.validation_enabled(False):
        loss = pv.objectives.ELBO().differentiable_loss(model, guide, x)
    torch.testing.assert_close(loss, exact)
    gradients = [torch.autograd.grad(value, logits)[0] for value in (loss, exact)]
    torch.testing.assert_close(*gradients)


def test_a_latent_of_the_model_alone_may_take_its_values_in_turn():
    """Pyro's ELBO has no sequential enumeration there; the sum is the same."""
    torch.manual_seed(0)
    x, weight = torch.randn(7, 2), torch.randn(3, 2, requires_grad=True)

    def model_of(way):
        def model(x):
            with pyro.plate("data", len(x)):
                y = pyro.sample("y", dist.Categorical(torch.tensor([0.2, 0.3, 0.5])),
                                infer={"enumerate": way})  # fmt: skip
                pyro.sample("x", dist.Normal(weight[y], 1.0).to_event(1), obs=x)

        return model

    def guide(x):
        pass

    expected = dist.Normal(weight, 1.0).log_prob(x[:, None]).sum(-1)
    expected = -(expected + torch.tensor([0.2, 0.3, 0.5]).log()).logsumexp(-1).sum()
    (gradient,) = torch.autograd.grad(expected, weight)
    for way in ("parallel", "sequential"):
        loss = ELBO().differentiable_loss(model_of(way), guide, x)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(torch.autograd.grad(loss, weight)[0], gradient)
        torch.testing.assert_close(ELBO().loss(model_of(way), guide, x), expected.item())


@pytest.mark.parametrize("plates", [("data", "data", "data"), ("data", "data", "rows"),
                                    ("data", "data2", "data"), ("a", "b", "c")])  # fmt: skip
def test_rows_in_plates_of_several_names_are_the_same_rows(plates):
    """By hand; Pyro's TraceEnum_ELBO multiplies what is in one plate by the rows of another."""
    torch.manual_seed(0)
    x, of_y, of_x = torch.randn(6, 5), 0.5 * torch.randn(5, 3), torch.randn(3, 5)

    def model(x):
        weight = pyro.param("weight", of_x)
        with pyro.plate(plates[0], len(x)):
            y = pyro.sample("y", dist.Categorical(torch.ones(3) / 3))
            if plates[1] == plates[0]:
                pyro.sample("x", dist.Normal(weight[y], 1.0).to_event(1), obs=x)
        if plates[1] != plates[0]:
            with pyro.plate(plates[1], len(x)):
                pyro.sample("x", dist.Normal(weight[y], 1.0).to_event(1), obs=x)

    def guide(x):
        weight = pyro.param("guide_weight", of_y)
        with pyro.plate(plates[2], len(x)):
            q = dist.Categorical(logits=x @ weight)
            pyro.sample("y", q, infer={"enumerate": "parallel"})

    a, w = (v.clone().requires_grad_() for v in (of_y, of_x))
    log_p = dist.Normal(w, 1.0).log_prob(x.unsqueeze(1)).sum(-1) - math.log(3)
    log_q = (x @ a).log_softmax(-1)
    exact = -(log_q.exp() * (log_p - log_q)).sum()
    exact.backward()
    pyro.clear_param_store()
    loss = pv.objectives.ELBO().differentiable_loss(model, guide, x)
    loss.backward()
    torch.testing.assert_close(loss, exact)
    for name, expected in (("weight", w), ("guide_weight", a)):
        actual = pyro.get_param_store()._params[name].grad
        torch.testing.assert_close(actual, expected.grad)
    run = pv.fit(model, guide, x, 1, batch_size=6, lr=1e-12, progress=False, compile=False)
    assert 6 * run.history[0]["loss"] == pytest.approx(exact.item(), rel=1e-5)
