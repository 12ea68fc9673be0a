"""Semi-supervised models: the objective is Kingma et al.'s, label by label, and it learns."""

import dataclasses
import itertools
import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn as nn
from sampling import covering
from torch.distributions import MultivariateNormal as TorchMultivariateNormal

import pyro_vae as pv
from pyro_vae import methods
from pyro_vae.conditionals import MLP, Normal, NormalLikelihood
from pyro_vae.conditionals.families import bounded_log_scale
from pyro_vae.objectives import ELBO, SemiSupervised
from pyro_vae.programs.calling import as_keyword_program

K, LATENT, D, N, NOISE = 3, 2, 4, 7, 0.7
SMALL = MLP(hidden=(6,), activation="tanh")
LINEAR = MLP(hidden=())
LABELS = torch.tensor([2, -1, 0, -1, -1, 1, 0])


class FixedNoise(dist.Normal):
    """Its one draw is loc + 0.7 scale, so that two programs that draw by other shapes agree."""

    def rsample(self, sample_shape=()):
        return self.loc + NOISE * self.scale


@dataclasses.dataclass(frozen=True)
class Fixed(Normal):
    def __call__(self, shape, loc, log_scale):
        scale = bounded_log_scale(log_scale).exp()
        return FixedNoise(loc, scale, validate_args=False).to_event(len(shape))


MODELS = {
    "m2": (pv.models.M2, {}),
    "auxiliary": (pv.models.AuxiliaryDGM, {"auxiliary_dim": 3}),
    "skip": (pv.models.AuxiliaryDGM, {"auxiliary_dim": 3, "skip": True}),
}


def pair(name="m2", seed=0, fixed=True, network=SMALL, likelihood="bernoulli", **options):
    """A small pair in float64, away from its initial weights."""
    kind, arguments = MODELS[name]
    torch.manual_seed(seed)
    model = kind((D,), K, LATENT, likelihood=likelihood, network=network, **arguments)
    given = model.default_guide
    family = {latent: Fixed() for latent in given if latent != "y"} if fixed else None
    guide = pv.guides.Guide(model, family=family, network=network, **options)
    for module in (model.double(), guide.double()):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.4 * torch.randn(parameter.shape, dtype=torch.float64))
    return model, guide


def binary(n=N, seed=1):
    half = torch.full((n, D), 0.5, dtype=torch.float64)
    return torch.bernoulli(half, generator=torch.Generator().manual_seed(seed))


def loss_of(objective, model, guide, seed=3, **batch):
    torch.manual_seed(seed)
    return objective.differentiable_loss(
        as_keyword_program(model), as_keyword_program(guide), **batch
    )


def assert_same(one, other, *programs):
    """Two losses, and their gradients in every parameter."""
    torch.testing.assert_close(one, other, rtol=1e-11, atol=0)
    parameters = [p for program in programs for p in program.parameters()]
    both = [
        torch.autograd.grad(value, parameters, allow_unused=True, retain_graph=True)
        for value in (one, other)
    ]
    for a, b in zip(*both, strict=True):
        a, b = (torch.zeros(()) if g is None else g for g in (a, b))
        torch.testing.assert_close(*torch.broadcast_tensors(a, b), rtol=1e-8, atol=1e-10)


# ----------------------------------------------------------- the objective, written by hand


def cost(model, guide, x, y, beta=1.0, q_y=None):
    """L(x, y) `[B]` with FixedNoise's draw, y one-hot `[B, K]`; `q_y`: log q(y | x) of U's sum."""

    def draw(fn):
        return fn.base_dist.loc + NOISE * fn.base_dist.scale

    q, kl = guide.factors, 0.0
    values = {"x": x, "y": y}
    if "a" in q:
        fn = q["a"](x=x)
        values["a"] = draw(fn)
        kl = kl + fn.log_prob(values["a"])
    fn = q["z"](**{p: values[p] for p in q["z"].given})
    z = values["z"] = draw(fn)
    kl = kl + fn.log_prob(z) - model.p_z().log_prob(z)
    kl = kl - model.p_y().log_prob(y) + (0.0 if q_y is None else q_y)
    if "a" in q:
        given = {p: values[p] for p in model.p_a.given}
        kl = kl - model.p_a(**given).log_prob(values["a"])
    given = {p: values[p] for p in model.p_x.given}
    return -model.p_x(**given).log_prob(x) + beta * kl


def log_q_of_y(guide, x):
    values = {"x": x}
    if "a" in guide.factors:
        fn = guide.factors["a"](x=x)
        values["a"] = fn.base_dist.loc + NOISE * fn.base_dist.scale
    return guide.factors["y"](**{p: values[p] for p in guide.factors["y"].given}).logits


def two_calls(model, guide, x, labels, alpha, share, beta=1.0):
    """Labeled and unlabeled data apart, y by a Python loop."""
    known = labels >= 0
    eye = torch.eye(K, dtype=x.dtype)
    total = cost(model, guide, x[known], eye[labels[known]], beta).sum()
    log_q = log_q_of_y(guide, x[~known])
    for k in range(K):
        y = eye[k].expand(len(log_q), K)
        each = cost(model, guide, x[~known], y, beta, log_q[:, k])
        total = total + (log_q[:, k].exp() * each).sum()
    picked = log_q_of_y(guide, x[known]).gather(1, labels[known][:, None])
    return total - alpha / share * picked.sum()


@pytest.mark.parametrize("beta", [1.0, 0.3])
@pytest.mark.parametrize("particles", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_one_call_equals_labeled_and_unlabeled_calls_written_by_hand(name, particles, beta):
    model, guide = pair(name)
    objective = SemiSupervised(0.1, 0.25, beta=beta, num_particles=particles)
    actual = loss_of(objective, model, guide, x=binary(), y=LABELS)
    expected = two_calls(model, guide, binary(), LABELS, 0.1, 0.25, beta)
    assert_same(actual, expected, model, guide)
    value = objective.loss(
        as_keyword_program(model), as_keyword_program(guide), x=binary(), y=LABELS
    )
    assert value == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("discrete", ["score_function", "relaxed"])
def test_where_all_data_are_labeled_the_treatment_of_y_makes_no_difference(discrete):
    labels = LABELS.clamp(min=0)
    enumerated, other = (pair(discrete=how) for how in ("enumerate", discrete))
    objective = SemiSupervised(0.5, 1.0)
    torch.testing.assert_close(
        *(loss_of(objective, *p, x=binary(), y=labels) for p in (enumerated, other)),
        rtol=1e-12, atol=0,
    )  # fmt: skip


def test_labels_of_all_data_are_observing_y_plus_the_classification_term():
    model, guide = pair()
    labels = LABELS.clamp(min=0)
    y = torch.eye(K, dtype=torch.float64)[labels]
    observed = loss_of(ELBO(), model, guide, x=binary(), y=y)
    log_q = guide.factors["y"](x=binary()).log_prob(y)
    actual = loss_of(SemiSupervised(0.7, 1.0), model, guide, x=binary(), y=labels)
    assert_same(actual, observed - 0.7 * log_q.sum(), model, guide)


@pytest.mark.parametrize(
    "name, discrete, options",
    covering(
        list(MODELS),
        ["enumerate", "score_function", "relaxed"],
        [{}, {"free_bits": {"y": 1.0, "z": 0.1}, "beta": 0.5}],
        every=2,
    ),
)
def test_without_labels_it_is_the_elbo(name, discrete, options):
    model, guide = pair(name, fixed=False, discrete=discrete)
    nothing = torch.full((N,), -1)
    actual = loss_of(SemiSupervised(0.1, 0.0, **options), model, guide, x=binary(), y=nothing)
    assert_same(actual, loss_of(ELBO(**options), model, guide, x=binary()), model, guide)


def test_free_bits_and_warm_up_apply_to_labeled_data_too():
    model, guide = pair()
    labels = LABELS.clamp(min=0)
    held = SemiSupervised(0.0, 1.0, free_bits={"z": 100.0})
    free = SemiSupervised(0.0, 1.0, beta={"z": 0.0})
    losses = [loss_of(o, model, guide, x=binary(), y=labels) for o in (held, free)]
    torch.testing.assert_close(losses[0] - losses[1], torch.tensor(100.0 * N, dtype=torch.float64))
    warm = SemiSupervised(0.0, 1.0, warmup=10)
    warm.epoch = 3
    expected = two_calls(model, guide, binary(), LABELS, 0.0, 1.0, beta=0.3)
    torch.testing.assert_close(loss_of(warm, model, guide, x=binary(), y=LABELS), expected)


# ------------------------------------------------------------------------- exact sums


def every_x():
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=D)), dtype=torch.float64)


def exact_pair():
    """M2 that ignores z, with the exact posterior, which is linear in x, as its guide."""
    model, guide = pair(fixed=False, network=LINEAR)
    with torch.no_grad():
        head = model.p_x.head
        head.maps["z"].weight.zero_()
        logits = (head.bias + head.maps["y"].weight.T).detach()  # [K, D]
        q_y, q_z = guide.factors["y"].head, guide.factors["z"].head
        q_y.maps["x"].weight.copy_(logits)
        q_y.bias.copy_(-nn.functional.softplus(logits).sum(-1))
        for parameter in q_z.parameters():
            parameter.zero_()
    return model, guide, logits


def test_where_the_guide_is_exact_it_is_log_p_of_x_or_of_x_and_y():
    model, guide, logits = exact_pair()
    x = every_x()
    joint = dist.Bernoulli(logits=logits).to_event(1).log_prob(x.unsqueeze(1)) - math.log(K)
    assert float(joint.exp().sum()) == pytest.approx(1, rel=1e-12)
    labels = torch.arange(len(x)) % (K + 1) - 1
    known = labels >= 0
    expected = -joint.logsumexp(-1)[~known].sum() - joint[known, labels[known]].sum()
    actual = loss_of(SemiSupervised(0.0, 1.0), model, guide, x=x, y=labels)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(pv.evaluate.elbo(model, guide, x), joint.logsumexp(-1))
    classes = pv.evaluate.classify(model, guide, x)
    assert torch.equal(classes, joint.argmax(-1))


def grid(n=2001, edge=9.0):
    z = torch.linspace(-edge, edge, n, dtype=torch.float64).unsqueeze(-1)
    return z, math.log(2 * edge / (n - 1))


def test_the_evidence_of_m2_equals_an_explicit_sum_over_y_and_quadrature_over_z():
    torch.manual_seed(0)
    model = pv.models.M2((D,), K, 1, network=SMALL).double()
    guide = pv.guides.Guide(model, network=SMALL).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    z, cell = grid()
    x = every_x()
    joint = []
    with torch.no_grad():
        prior = dist.Normal(0.0, 1.0).log_prob(z[:, 0]) - math.log(K)
        for y in torch.eye(K, dtype=torch.float64):
            distribution = model.p_x(y=y.expand(len(z), K), z=z)
            joint.append(
                torch.stack([distribution.log_prob(datum) for datum in x], 1) + prior[:, None]
            )
    truth = torch.cat(joint).logsumexp(0) + cell
    assert float(truth.exp().sum()) == pytest.approx(1, rel=1e-6)
    bound = pv.evaluate.log_likelihood(model, guide, x, num_samples=10_000)
    torch.testing.assert_close(bound, truth, atol=0.03, rtol=0)
    # U(x) is below it by the guide's two gaps, and is the objective's unlabeled term
    assert (pv.evaluate.elbo(model, guide, x, num_samples=2000) < truth + 0.01).all()


@pytest.mark.parametrize("skip", [False, True])
def test_a_leaf_a_leaves_the_evidence_alone_and_a_layer_a_adds_to_it(skip):
    """Linear and normal throughout: log p(x) is a mixture of K normals, with or without a."""
    torch.manual_seed(0)
    size_a, scale = 2, 0.6
    model = pv.models.AuxiliaryDGM(
        (D,), K, LATENT, size_a, skip, NormalLikelihood(scale=scale), LINEAR
    ).double()
    guide = pv.guides.Guide(model, network=SMALL).double()
    heads = model.p_x.head, model.p_a.head
    with torch.no_grad():
        model.p_a.head.bias[size_a:] = -0.5
        for affine in model.p_a.head.maps.values():
            affine.weight[size_a:] = 0  # of one scale, so that the sum over a is a normal
    w = {n: m.weight.detach() for n, m in heads[0].maps.items()}
    v = {n: m.weight.detach()[:size_a] for n, m in heads[1].maps.items()}
    eye, mean, factor = torch.eye(D, dtype=torch.float64), w["y"].T + heads[0].bias.detach(), w["z"]
    covariance = scale**2 * eye
    if skip:
        mean = mean + (v["y"].T + heads[1].bias.detach()[:size_a]) @ w["a"].T
        factor = factor + w["a"] @ v["z"]
        covariance = covariance + math.exp(2 * bounded_log_scale(torch.tensor(-0.5))) * (
            w["a"] @ w["a"].T
        )
    distribution = TorchMultivariateNormal(mean, covariance + factor @ factor.T)
    torch.manual_seed(2)
    x = model(size=6).detach()
    truth = (distribution.log_prob(x.unsqueeze(1)) - math.log(K)).logsumexp(-1)
    pv.fit(model.requires_grad_(False), guide, x.repeat(20, 1), 40, lr=2e-2, progress=False)
    bound = pv.evaluate.log_likelihood(model, guide, x, num_samples=20_000)
    torch.testing.assert_close(bound, truth, atol=0.05, rtol=0)


# ---------------------------------------------------------------- gradient of samples


def test_the_score_functions_mean_gradient_is_the_enumerated_one():
    times = 1000
    x, labels = binary(3), torch.tensor([-1, 1, -1])
    model, exact = pair()
    sampled = pv.guides.Guide(
        model, family={"z": Fixed()}, network=SMALL, discrete="score_function"
    ).double()
    sampled.load_state_dict(exact.state_dict())
    objective = SemiSupervised(0.1, 0.3)

    def gradient(guide, x, labels, seed):
        loss = loss_of(objective, model, guide, seed, x=x, y=labels)
        parameters = [*model.parameters(), *guide.parameters()]
        actual = torch.autograd.grad(loss, parameters, allow_unused=True)
        return torch.cat([g.flatten() for g in actual if g is not None])

    truth = gradient(exact, x, labels, 0)
    noisy = torch.stack(
        [gradient(sampled, x.repeat(times, 1), labels.repeat(times), s) / times for s in range(30)]
    )
    error = noisy.std(0) / math.sqrt(len(noisy))
    assert (error / truth.abs().max()).max() < 0.02
    assert ((noisy.mean(0) - truth).abs() < 5 * error + 1e-9).all()


# ------------------------------------------------- y summed in the model, users' pairs


def test_where_the_model_sums_y_a_labeled_row_has_the_joint():
    torch.manual_seed(0)
    model = pv.models.MixtureVAE((D,), K, LATENT, network=SMALL).double()
    guide = pv.guides.Guide(model, family={"z": Fixed()}, network=SMALL).double()
    with torch.no_grad():
        model.p_y.logits.copy_(torch.randn(K))
    x = binary()
    q = guide.factors["z"](x=x)
    z = q.base_dist.loc + NOISE * q.base_dist.scale
    eye = torch.eye(K, dtype=torch.float64)
    joint = torch.stack([model.p_y().log_prob(y) + model.p_z(y=y).log_prob(z) for y in eye], -1)
    rest = model.p_x(z=z).log_prob(x) - q.log_prob(z)
    one = joint.gather(1, LABELS.clamp(min=0)[:, None])[:, 0]
    terms = torch.where(LABELS >= 0, one, joint.logsumexp(-1)) + rest
    for options in ({}, {"beta": 1 + 1e-14}):
        actual = loss_of(SemiSupervised(0.1, 0.3, **options), model, guide, x=x, y=LABELS)
        assert_same(actual, -terms.sum(), model, guide)


def users_pair(distribution=dist.OneHotCategorical, one_hot=True):
    """In the style of Pyro's ss_vae_M2, with functions and `pyro.module`."""
    torch.manual_seed(0)
    decoder, of_y, of_z = nn.Linear(LATENT + K, D), nn.Linear(D, K), nn.Linear(D + K, 2 * LATENT)

    def row(y):
        return y if one_hot else nn.functional.one_hot(y.long(), K).float()

    def join(y, other):
        shape = torch.broadcast_shapes(y.shape[:-1], other.shape[:-1])
        return torch.cat([y.expand(*shape, -1), other.expand(*shape, -1)], -1)

    def model(xs, ys=None):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(xs)):
            y = pyro.sample("y", distribution(xs.new_ones(len(xs), K) / K), obs=ys)
            z = pyro.sample("z", dist.Normal(xs.new_zeros(len(xs), LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(join(row(y), z))).to_event(1), obs=xs)

    @pyro.infer.config_enumerate
    def guide(xs, ys=None):
        pyro.module("of_y", of_y), pyro.module("of_z", of_z)
        with pyro.plate("data", len(xs)):
            y = ys if ys is not None else pyro.sample("y", distribution(logits=of_y(xs)))
            loc, scale = of_z(join(row(y), xs)).chunk(2, -1)
            pyro.sample("z", FixedNoise(loc, scale.exp()).to_event(1))

    return model, guide, (decoder, of_y, of_z)


@pytest.mark.parametrize(
    "distribution, one_hot", [(dist.OneHotCategorical, True), (dist.Categorical, False)]
)
def test_a_users_pair_with_a_categorical_y_is_trained_with_labels(distribution, one_hot):
    model, guide, (decoder, of_y, of_z) = users_pair(distribution, one_hot)
    x = binary().float()
    actual = loss_of(SemiSupervised(0.1, 0.5), model, guide, x=x, y=LABELS)
    log_q = of_y(x).log_softmax(-1)

    def part(y):
        loc, scale = of_z(torch.cat([y, x], -1)).chunk(2, -1)
        q = dist.Normal(loc, scale.exp()).to_event(1)
        z = loc + NOISE * scale.exp()
        p_x = dist.Bernoulli(logits=decoder(torch.cat([y, z], -1))).to_event(1).log_prob(x)
        return p_x + dist.Normal(0.0, 1.0).log_prob(z).sum(-1) - q.log_prob(z) - math.log(K)

    joint = torch.stack([part(y.expand(N, K)) for y in torch.eye(K)], -1)
    at = LABELS.clamp(min=0)[:, None]
    unlabeled = (log_q.exp() * (joint - log_q)).sum(-1)
    terms = torch.where(LABELS >= 0, joint.gather(1, at)[:, 0], unlabeled)
    class_term = 0.1 / 0.5 * log_q.gather(1, at)[LABELS >= 0].sum()
    torch.testing.assert_close(actual, -terms.sum() - class_term)
    data = pv.data.from_arrays(x, LABELS, valid=0, test=0, num_classes=K)
    run = pv.fit(model, guide, data, 3, objective=SemiSupervised(), progress=False)
    assert run.history[-1]["loss"] < run.history[0]["loss"]


def test_a_stated_fraction_is_kept_and_a_counted_one_follows_the_labels():
    given, counted = SemiSupervised(labelled_fraction=0.2), SemiSupervised()
    for labels, fraction in ((LABELS, 4 / 7), (torch.tensor([0, -1]), 0.5)):
        given.count_labels(labels), counted.count_labels(labels)
        assert given.labelled_fraction == 0.2
        assert counted.labelled_fraction == pytest.approx(fraction)


def test_pyros_svi_steps_with_labels():
    model, guide = (m.float() for m in pair(fixed=False))
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), SemiSupervised(1.0, 0.5))
    losses = [svi.step(binary().float(), y=LABELS) for _ in range(30)]
    assert sum(losses[-10:]) < sum(losses[:10])


def test_what_it_cannot_do_it_says_in_one_line():
    x, data = binary().float(), pv.data.from_arrays(binary().float(), LABELS, valid=0, test=0)
    model, guide = (m.float() for m in pair(fixed=False))

    def says(message, model=model, guide=guide, data=data, **options):
        with pytest.raises(pv.UserError, match=message) as e:
            objective = SemiSupervised(**options.pop("with_", {}))
            pv.fit(model, guide, data, 1, objective=objective, progress=False, **options)
        assert "\n" not in str(e.value)

    says("needs labels y", data=x)
    vae = pv.models.VAE((D,), LATENT, network=SMALL)
    says("neither guide nor model has a discrete latent 'y'", vae, pv.guides.Guide(vae))
    says("no.* discrete latent 'c'", with_={"latent": "c"})
    says("observed= cannot name it too", observed=("x", "y"))
    says("'z' is Independent: labels need", with_={"latent": "z"})
    far = dataclasses.replace(data, train=dataclasses.replace(data.train, y=LABELS + 2))
    says("labels go up to 4, but 'y' has 3 classes", data=far)
    with pytest.raises(pv.UserError, match="alpha must be non-negative"):
        SemiSupervised(alpha=-1)
    with pytest.raises(pv.UserError, match="lies in"):
        SemiSupervised(labelled_fraction=1.5)
    with pytest.raises(pv.UserError, match="needs labelled_fraction="):
        loss_of(SemiSupervised(), model, guide, x=x, y=LABELS)
    with pytest.raises(pv.UserError, match="needs y="):
        loss_of(SemiSupervised(), model, guide, x=x)


# ------------------------------------------------------------------------------- data


def test_kept_labels_are_balanced_seeded_and_true():
    whole = pv.data.load("digits", binarize="none")
    data = pv.data.load("digits", binarize="none", num_labels=100, label_seed=3)
    y = data.train.y
    assert (torch.bincount(y[y >= 0]) == 10).all() and int((y >= 0).sum()) == 100
    assert torch.equal(y[y >= 0], whole.train.y[y >= 0])
    assert torch.equal(data.withheld_labels, whole.train.y) and torch.equal(
        data.test.y, whole.test.y
    )
    again = whole.keep_labels(100, 3)
    assert torch.equal(again.train.y, y) and again.describe()["num_labels"] == 100
    assert not torch.equal(whole.keep_labels(100, 4).train.y, y)
    uneven = torch.bincount(whole.keep_labels(57).train.y.clamp(min=-1) + 1)[1:]
    assert set(uneven.tolist()) == {5, 6}
    all_kept = whole.keep_labels(len(whole.train))
    assert torch.equal(all_kept.train.y, whole.train.y)
    few = pv.data.from_arrays(torch.rand(9, 2), torch.tensor([0, 0, 0, 0, 0, 1, 1, 2, -1]), 0, 0)
    assert sorted(few.keep_labels(7).train.y.tolist()) == [-1, -1, 0, 0, 0, 0, 1, 1, 2][:2] + [
        0, 0, 0, 0, 1, 1, 2
    ]  # fmt: skip
    for number in (0, 9):
        with pytest.raises(pv.UserError, match=f"{number} labels to keep, of 8"):
            few.keep_labels(number)


def test_validation_and_the_unlabeled_rows_labels_are_never_seen():
    data = few_digits()
    twisted = dataclasses.replace(
        data,
        valid=dataclasses.replace(data.valid, y=data.valid.y.flip(0)),
        test=dataclasses.replace(data.test, y=data.test.y.flip(0)),
        withheld_labels=data.withheld_labels.flip(0),
    )
    histories = []
    for actual in (data, twisted):
        model, guide = build("m2", actual)
        run = pv.fit(model, guide, actual, 2, objective=SemiSupervised(), progress=False)
        histories.append([(row["loss"], row["elbo"]) for row in run.history])
    assert histories[0] == histories[1]


# ---------------------------------------------------------------------------- training


def build(name, data, seed=0, **overrides):
    torch.manual_seed(seed)
    small = {"hidden": [64], "latent_dim": 8, "likelihood": "binomial", **overrides}
    config = methods.configure(name, "digits", small)
    return methods.build(config, data.x_shape, len(data.train), None, data.num_classes)


@pytest.mark.parametrize(
    "name", covering(["m2", "m1-m2", "auxiliary-dgm", "skip-dgm", "gmvae"], every=3)
)
def test_a_recorded_step_trains_the_same(name):
    data = few_digits()
    losses = []
    for compile in (False, "recorded"):
        model, guide = build(name, data, hidden=[16])
        objective = SemiSupervised(alpha=1.0, warmup=2)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            run = pv.fit(
                model, guide, data, 2, objective=objective, compile=compile, batch_size=100,
                progress=False,
            )  # fmt: skip
        losses.append([row["loss"] for row in run.history])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def few_digits(num=200, num_labels=50):
    """Some of the digits in each split, a quarter of the training digits labeled."""
    digits = pv.data.load("digits", binarize="none")
    splits = {name: getattr(digits, name)[:num] for name in ("train", "valid", "test")}
    return dataclasses.replace(digits, **splits).keep_labels(num_labels)


def stack(**options):
    return pv.train.StackInitialization(epochs=2, lr=1e-2, **options)


def test_the_stacks_lower_part_is_trained_first_then_held_also_when_resumed_and_loaded(tmp_path):
    data = few_digits()

    def lower(model, guide):
        parts = (model.p_x, guide.factors["z1"])
        return [p.detach().clone() for part in parts for p in part.parameters()]

    def train(epochs, out, resume=False, seed=0):
        pair = build("m1-m2", data, seed, hidden=[16])
        before = lower(*pair)
        pv.fit(
            *pair, data, epochs, objective=SemiSupervised(1.0), initialize=stack(), out=out,
            resume=resume, lr=1e-2, progress=False,
        )  # fmt: skip
        return pair, before

    first, before = train(1, tmp_path / "a")
    held = lower(*first)
    assert not any(torch.equal(a, b) for a, b in zip(before, held, strict=True))
    whole, _ = train(3, tmp_path / "whole")
    for a, b in zip(held, lower(*whole), strict=True):
        assert torch.equal(a, b)
    resumed, _ = train(3, tmp_path / "a", resume=True, seed=5)
    for module, other in zip(whole, resumed, strict=True):
        for name, value in module.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name
    loaded = build("m1-m2", data, 7, hidden=[16])
    pv.train.load_weights(*loaded, tmp_path / "whole" / "checkpoint.pt")
    for model, guide in (whole, resumed, loaded):
        parts = (model.p_x, guide.factors["z1"])
        assert not any(p.requires_grad for part in parts for p in part.parameters())
        assert all(p.requires_grad for p in model.p_z1.parameters())
    tuned = build("m1-m2", data, hidden=[16])
    pv.fit(*tuned, data, 1, initialize=stack(freeze=False), lr=1e-2, progress=False)
    assert not any(torch.equal(a, b) for a, b in zip(held, lower(*tuned), strict=True))


def test_the_stack_start_refuses_other_models():
    data = pv.data.load("digits", binarize="none")
    with pytest.raises(pv.UserError, match="needs M1M2"):
        pv.fit(*build("m2", data), data, 1, initialize=stack(), progress=False)


def error(classes, labels):
    return float((classes != labels).double().mean())


@pytest.mark.slow
def test_with_100_labels_the_skip_model_errs_a_fifth_less_than_logistic_regression_on_digits():
    data = pv.data.load("digits", binarize="none", num_labels=100)
    model, guide = build("skip-dgm", data, hidden=[128], latent_dim=16)
    pv.fit(
        model, guide, data, 30, objective=SemiSupervised(10.0), lr=5e-3, schedule="cosine",
        compile="recorded", progress=False,
    )  # fmt: skip
    actual = error(pv.evaluate.classify(model, guide, data.test.x), data.test.y)
    x, y = data.train.x, data.train.y
    others = pv.evaluate.classifier_baselines(x, y, data.test.x, spreading=True)
    baseline = error(others["logistic regression"][0], data.test.y)
    assert 0.05 < baseline < 0.2
    assert actual < 0.8 * baseline


def test_features_are_the_active_units_of_the_reference_alone():
    data = pv.data.load("digits", binarize="none")
    torch.manual_seed(0)
    model = pv.models.VAE(data.x_shape, 3, "binomial", SMALL)
    guide = pv.guides.Guide(model, network=LINEAR)
    with torch.no_grad():
        head = guide.factors["z"].head
        head.maps["x"].weight[1] = 0.0  # its posterior mean is one number: an unused unit
        head.maps["x"].weight[[0, 2]] *= 10
    x = data.test.x[:50]
    codes = pv.evaluate.encode(model, guide, x)["z"]
    assert torch.equal(pv.evaluate.active_unit_features(model, guide, x), codes[:, [0, 2]])
    few = pv.evaluate.active_unit_features(model, guide, x[:1], reference=x)
    assert torch.allclose(few, codes[:1, [0, 2]])
    with pytest.raises(pv.UserError, match="unknown continuous latent 'w'"):
        pv.evaluate.active_unit_features(model, guide, x, latent="w")


def test_classifiers_use_the_labeled_rows_alone_and_spreading_the_others_too():
    torch.manual_seed(0)
    centers = torch.tensor([[-3.0, 0.0], [3.0, 0.0]])
    truth = torch.arange(200) % 2
    x = centers[truth] + torch.randn(200, 2)
    y = torch.where(torch.arange(200) < 6, truth, -1)
    actual = pv.evaluate.classifier_baselines(x, y, x[6:], spreading=True)
    assert list(actual) == ["logistic regression", "SVM", "LabelSpreading"]
    for (classes,) in actual.values():
        assert error(classes, truth[6:]) < 0.05
    again = pv.evaluate.classifier_baselines(torch.where((y < 0)[:, None], 9.0, x), y, x[6:])
    assert torch.equal(again["SVM"][0], actual["SVM"][0])
    with pytest.raises(pv.UserError, match="labels of two classes"):
        pv.evaluate.classifier_baselines(x, torch.full((200,), -1), x)


@pytest.mark.filterwarnings("error")
def test_spreading_gives_the_lowest_class_to_rows_that_no_label_reaches_without_a_warning():
    groups = torch.tensor([0.0, 100.0, 200.0]).repeat_interleave(20)
    x = (groups + torch.linspace(0, 1, 20).repeat(3)).unsqueeze(1)
    y = torch.full((60,), -1)
    y[0], y[20] = 1, 2
    centers = torch.tensor([[0.5], [100.5], [200.5]])
    (actual,) = pv.evaluate.classifier_baselines(x, y, centers, spreading=True)["LabelSpreading"]
    assert actual.tolist() == [1, 2, 1]


@pytest.mark.parametrize("name", MODELS)
def test_analogies_are_the_decoders_means_at_one_style(name):
    model, guide = pair(name, fixed=False)
    x = binary(2)
    actual = pv.generate.style_transfer_grid(model, guide, x)
    assert actual.shape == (2, K, D)
    z = pv.evaluate.encode(model, guide, x)["z"]
    with torch.no_grad():
        for k, y in enumerate(torch.eye(K, dtype=torch.float64)):
            values = {"y": y.expand(2, K), "z": z}
            if "a" in model.p_x.given:
                values["a"] = model.p_a(y=values["y"], z=z).mean
            mean = model.p_x(**{p: values[p] for p in model.p_x.given}).mean
            torch.testing.assert_close(actual[:, k], mean)
    vae = pv.models.VAE((D,), 2, network=SMALL)
    with pytest.raises(pv.UserError, match="VAE has no style_latent"):
        pv.generate.style_transfer_grid(vae, pv.guides.Guide(vae), x)


@pytest.mark.slow
def test_m2_of_digits_draws_the_class_that_it_is_asked_for_in_each_datums_style():
    run = pv.method("m2", "digits", compile="recorded").fit(device="cpu", progress=False)
    model, guide, data = run.model, run.guide, run.data
    x = data.observed_split("valid").x[:50]
    made = pv.generate.style_transfer_grid(model, guide, x)
    read = pv.evaluate.classify(model, guide, made.flatten(0, 1)).reshape(50, 10)
    assert (read == torch.arange(10)).double().mean() > 0.7  # 0.4 where z takes the class along


def test_entropy_and_mutual_information_tell_an_ignored_y_from_a_used_one():
    uniform, sure = torch.full((6, 3), 1 / 3), torch.eye(3).repeat(2, 1)
    one = torch.tensor([[1.0, 0, 0]]).repeat(6, 1)
    values = [
        (pv.evaluate.entropy(p), pv.evaluate.mutual_information(p)) for p in (uniform, sure, one)
    ]
    assert values[0] == pytest.approx((math.log(3), 0), abs=1e-6)
    assert values[1] == pytest.approx((0, math.log(3)), abs=1e-6)
    assert values[2] == pytest.approx((0, 0), abs=1e-6)


@pytest.mark.slow
def test_m2_without_labels_ignores_y():
    """Rui Shu's observation, with his likelihood and size of z, on digits: q(y | x) is p(y)."""
    data = pv.data.load("digits", binarize="dynamic")
    model, guide = build("m2-clustering", data, likelihood="bernoulli", latent_dim=64)
    pv.fit(
        model, guide, data, 20, objective=ELBO(warmup=10), lr=4e-3, schedule="cosine",
        batch_size=100, compile="recorded", progress=False,
    )  # fmt: skip
    probabilities = pv.evaluate.responsibilities(model, guide, data.test.x)
    assert pv.evaluate.entropy(probabilities) > math.log(10) - 0.05
    assert pv.evaluate.mutual_information(probabilities) < 0.02
    terms = pv.evaluate.elbo_terms(model, guide, data.test.x)
    assert terms["y"].mean() > -0.05 and terms["z"].mean() < -2  # z carries the information


def test_a_label_whose_component_is_far_from_the_draw_has_a_finite_loss():
    """y summed in the model, float32: log p(z | y) of the label is hundreds of nats below the other's."""

    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample(
                "y", dist.Categorical(torch.tensor([0.3, 0.7])), infer={"enumerate": "parallel"}
            )
            z = pyro.sample("z", dist.Normal(2.0 * y - 1.0, 0.05))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.full_like(x, -1.0), 0.01))

    x, labels = torch.zeros(4), torch.ones(4, dtype=torch.long)
    for particles in (1, 3):
        objective = SemiSupervised(labelled_fraction=1.0, num_particles=particles)
        torch.manual_seed(0)
        loss = objective.differentiable_loss(model, guide, x, y=labels)
        torch.manual_seed(0)
        q = dist.Normal(torch.full((4,), -1.0), 0.01)
        z = q.sample((particles,))
        bound = math.log(0.7) + dist.Normal(1.0, 0.05).log_prob(z) + dist.Normal(z, 1.0).log_prob(x)
        torch.testing.assert_close(loss, -(bound - q.log_prob(z)).sum() / particles)


@pytest.mark.parametrize("particles", [1, 3])
def test_the_classification_term_of_draws_that_are_rows_is_that_of_one_draw(particles):
    torch.manual_seed(0)
    x, y = torch.randn(8, 5), torch.tensor([0, 1, 2, 0, -1, -1, -1, -1])
    decoder, encoder, classifier = nn.Linear(5, 5), nn.Linear(8, 4), nn.Linear(5, 3)

    def model(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.OneHotCategorical(logits=torch.zeros(len(x), 3)))
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            loc = decoder(torch.cat([z, y], 1))
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.OneHotCategorical(logits=classifier(x)))
            m, s = encoder(torch.cat([x, y], 1)).chunk(2, -1)
            pyro.sample("z", dist.Normal(m, s.exp()).to_event(1))

    assert pv.programs.layout_of(model, guide, {"x": x}).particles == "rows"
    losses = []
    for alpha in (0.0, 1.0):
        torch.manual_seed(1)
        objective = SemiSupervised(alpha, 0.5, num_particles=particles)
        losses.append(objective.differentiable_loss(model, guide, x, y=y))
    expected = nn.functional.cross_entropy(classifier(x[:4]), y[:4], reduction="sum") / 0.5
    torch.testing.assert_close(losses[1] - losses[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("of_w", ["parallel", "sequential"])
@pytest.mark.parametrize("of_y", ["parallel", "sequential"])
def test_labels_below_an_enumerated_parent_are_refused(of_w, of_y):
    """The classification term would be of one value of the parent."""
    torch.manual_seed(0)
    x, y = torch.randn(6, 4), torch.tensor([0, 2, -1, 1, -1, -1])
    encoder, decoder = nn.Linear(5, 3), nn.Linear(3, 4)

    def guide(x):
        with pyro.plate("data", len(x)):
            w = pyro.sample("w", dist.Categorical(torch.ones(2) / 2), infer={"enumerate": of_w})
            w = w.unsqueeze(-1).to(x.dtype)
            w, x = torch.broadcast_tensors(w, x[..., :1])[0], x.expand(*w.shape[:-2], *x.shape)
            logits = encoder(torch.cat([x, w], -1))
            pyro.sample("y", dist.OneHotCategorical(logits=logits), infer={"enumerate": of_y})

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("w", dist.Categorical(torch.ones(2) / 2))
            y = pyro.sample("y", dist.OneHotCategorical(torch.ones(3) / 3))
            pyro.sample("x", dist.Normal(decoder(y), 1.0).to_event(1), obs=x)

    objective = SemiSupervised(labelled_fraction=0.5)
    with pytest.raises(pv.UserError, match="'y' (has an enumerated parent|differs)"):
        objective.differentiable_loss(model, guide, x, y=y)


def test_a_run_with_all_labels_reports_a_classification():
    """Its labels were used in training: a clustering's scores would deny that."""
    y = torch.arange(90) % 3
    x = torch.randn(90, 4, generator=torch.Generator().manual_seed(0)) + 3 * y.unsqueeze(-1)
    data = pv.data.from_arrays(x, y, test=30)
    run = pv.method("m2", data, hidden=[8], epochs=1, compile=False).fit(progress=False)
    result = run.evaluate(num_samples=2)
    assert "clustering" not in result
    split = run.data.observed_split("test")
    wrong = pv.evaluate.classify(run.model, run.guide, split.x) != split.y
    errors = result["classification"]["errors"]
    assert errors["this model"]["test"] == pytest.approx(float(wrong.double().mean()))
    assert result["classification"]["num_labels"] == len(data.train)
    assert any("on x" in name for name in errors)
    assert "misclassifies" in str(result) and "agrees with the labels" not in str(result)


@pytest.mark.parametrize("name", ["m2", "mixture-vae"])
def test_scores_of_partly_labeled_data_say_how_many_they_are_of(name):
    y = torch.arange(300) % 3
    x = torch.randn(300, 4, generator=torch.Generator().manual_seed(0)) + 3 * y.unsqueeze(-1)
    y[torch.arange(300) % 2 == 0] = -1
    data = pv.data.from_arrays(x, y, valid=0, test=100)
    options = {"hidden": [8], "epochs": 1, "compile": False}
    options |= {"num_components": 3} if name == "mixture-vae" else {}
    result = pv.method(name, data, **options).fit(progress=False).evaluate(num_samples=2)
    count = int((data.test.y >= 0).sum())
    assert result["labeled"] == count < 100
    assert f"of the {count} test data that have a label" in " ".join(str(result).split())
