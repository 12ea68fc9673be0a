"""A scale multiplies a finished term once; probabilities and weights never see it. So do masks.

With one scale s at every site (of a subsampled plate, of `poutine.scale`), every objective is s
times what it is without, and so is every gradient. With scales of single sites it is Pyro's.
"""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn as nn
from objectives import FixedNoise, flat_gradient, parameters_of
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from sampling import covering

import pyro_vae as pv
from pyro_vae.objectives import ELBO, IWAE, RWS, STL, DReG, Hybrid, Renyi, SemiSupervised
from pyro_vae.programs import trace_pair
from pyro_vae.programs.calling import as_keyword_program
from pyro_vae.train.steps.recorded import PlainStep

B, N, K, WHOLE = 6, 40, 3, 2.5
LABELS = torch.tensor([2, -1, 0, -1, -1, 1])
STRUCTURES = ("guide-side", "y-after-z", "model-side", "score_function")


class Pair(nn.Module):
    """y ~ Categorical; z | y ~ Normal; x | z, y ~ Normal in two dimensions; a user-defined pair.

    Args:
        structure: how the guide treats y.
        scale: None, "plate" (subsampled by index), "whole" (`poutine.scale` of both programs).
        sites: `{site: a handler}` around single sites, in model and guide.
        normal: of z in the guide.
    """

    def __init__(self, structure, scale=None, sites=None, normal=dist.Normal):
        super().__init__()
        self.structure, self.scale, self.sites, self.normal = structure, scale, sites or {}, normal
        generator = torch.Generator().manual_seed(5)

        def numbers(*shape):
            return nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))

        self.prior, self.centers, self.decode = numbers(K), numbers(K), numbers(2)
        self.shift = numbers(K, 2)
        self.of_y, self.of_y_z = numbers(2, K), numbers(K)
        self.of_z, self.z_of_y = numbers(2, 2), numbers(K)
        self.one = self.handled(self._model), self.handled(self._guide)

    def handled(self, program):
        return poutine.scale(program, WHOLE) if self.scale == "whole" else program

    @property
    def factor(self):
        return {None: 1.0, "plate": N / B, "whole": WHOLE}[self.scale]

    def plate(self, x, index):
        if self.scale == "plate":
            return pyro.plate("data", N, subsample=index)
        return pyro.plate("data", len(x))

    def sample(self, name, fn, **options):
        with self.sites.get(name, poutine.scale(scale=1.0)):
            return pyro.sample(name, fn, **options)

    def _model(self, x, index=None):
        infer = {"enumerate": "parallel"} if self.structure == "model-side" else {}
        with self.plate(x, index):
            y = self.sample("y", dist.Categorical(logits=self.prior), infer=infer)
            z = self.sample("z", dist.Normal(self.centers[y], 0.9))
            loc = z.unsqueeze(-1) * self.decode + self.shift[y]
            self.sample("x", dist.Normal(loc, 0.8).to_event(1), obs=x)

    def _guide(self, x, index=None):
        infer = {} if self.structure == "score_function" else {"enumerate": "parallel"}
        loc, log_scale = (x @ self.of_z).unbind(-1)
        with self.plate(x, index):
            if self.structure in ("y-after-z", "model-side"):
                z = self.sample("z", self.normal(loc, (0.3 * log_scale).exp()))
                if self.structure == "y-after-z":
                    logits = z.unsqueeze(-1) * self.of_y_z
                    self.sample("y", dist.Categorical(logits=logits), infer=infer)
                return
            y = self.sample("y", dist.Categorical(logits=x @ self.of_y), infer=infer)
            self.sample("z", self.normal(loc + self.z_of_y[y], (0.3 * log_scale).exp()))


def data(rows=slice(None)):
    x = torch.randn(B, 2, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return {"x": 1.5 * x[rows], "index": (3 * torch.arange(B) + 1)[rows]}


def loss_and_gradient(objective, pair, seed=3, **others):
    torch.manual_seed(seed)
    programs = map(as_keyword_program, pair.one)
    loss = objective.differentiable_loss(*programs, **{**data(), **others})
    return loss.detach(), flat_gradient(loss, parameters_of(pair))


def warming_up():
    objective = ELBO(warmup={"y": 10, "z": 4}, warmup_start=0.1)
    objective.epoch = 3
    return objective


OBJECTIVES = {
    "elbo": ELBO(),
    "particles": ELBO(num_particles=3),
    "beta": ELBO(beta=0.5),
    "beta-each": ELBO(beta={"y": 0.5, "z": 2.0}, num_particles=3),
    "warm-up": warming_up(),
    "free-bits-in-force": ELBO(free_bits={"y": 50.0, "z": 50.0}),
    "free-bits-between": ELBO(free_bits={"y": 2.0, "z": 2.0}),  # scaled KLs alone are above
    "free-bits-met": ELBO(free_bits={"y": 1e-4, "z": 1e-4}, beta=0.5),
    "analytic-kl": ELBO(analytic_kl=True),
    "leave-one-out": ELBO(leave_one_out_baseline=True),
    "leave-one-out-particles": ELBO(leave_one_out_baseline=True, num_particles=3),
    "stl": STL(),
    "stl-weighed": STL(beta={"y": 0.5}, free_bits={"z": 2.0}, num_particles=2),
    "iwae": IWAE(3),
    "dreg": DReG(3),
    "renyi": Renyi(0.5, 3),
    "renyi-0": Renyi(0, 3),
    "renyi-1": Renyi(1, 3),
    "vr-max": Renyi(-math.inf, 3),
    "rws": RWS(3),
    "rws-sleep": RWS(3, sleep_weight=0.4),
    "hybrid": Hybrid(0.3),
    "hybrid-beta": Hybrid(0.3, beta=0.5),
    "semi-supervised": SemiSupervised(0.4, 0.5),
    "semi-supervised-beta": SemiSupervised(0.4, 0.5, beta=0.5, free_bits={"z": 2.0}),
}


@pytest.mark.parametrize("name, structure", covering(list(OBJECTIVES), STRUCTURES, every=4))
def test_one_scale_of_all_sites_multiplies_loss_and_gradient_once(name, structure):
    if name == "dreg" and structure == "score_function":
        pytest.skip("DReG refuses what is not reparameterized")
    objective = OBJECTIVES[name]
    others = {"y": LABELS} if isinstance(objective, SemiSupervised) else {}
    loss, gradient = loss_and_gradient(objective, Pair(structure), **others)
    assert gradient.abs().max() > 0.1
    for scale in ("plate", "whole"):
        pair = Pair(structure, scale)
        actual = loss_and_gradient(objective, pair, **others)
        torch.testing.assert_close(actual[0], pair.factor * loss, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(actual[1], pair.factor * gradient, rtol=1e-9, atol=1e-9)


def test_free_bits_are_compared_with_nats_per_data_point():
    """The KL of z is below the constraint, though a scaled one would be above it."""
    pair = Pair("model-side", "plate")
    torch.manual_seed(3)
    kl = -trace_pair(*pair.one, data()).site_terms()["z"].mean().item()
    held, _ = loss_and_gradient(ELBO(free_bits={"z": kl + 0.2}), pair)
    free, _ = loss_and_gradient(ELBO(beta={"z": 0.0}), pair)
    # N times the constraint: the loss is a sum over all N data points
    assert (held - free).item() == pytest.approx(N * (kl + 0.2), rel=1e-10)


STRUCTURED = ["guide-side", "model-side", "y-after-z"]
ADDITIVE = [
    "elbo",
    "particles",
    "beta",
    "beta-each",
    "stl",
    "iwae",
    "dreg",
    "renyi",
    "vr-max",
    "rws",
    "semi-supervised",
]


@pytest.mark.parametrize("name, structure", covering(ADDITIVE, STRUCTURED, every=3))
def test_a_scale_for_each_data_point_weighs_its_part_of_the_loss(name, structure):
    objective = OBJECTIVES[name]
    semi = isinstance(objective, SemiSupervised)
    scales = torch.linspace(0.5, 3.0, 3, dtype=torch.float64)
    pair = Pair(structure, normal=FixedNoise)
    pair.one = tuple(poutine.scale(program, scales) for program in pair.one)
    three = data(slice(3)) | ({"y": LABELS[:3]} if semi else {})
    actual = loss_and_gradient(objective, pair, **three)
    expected = [0.0, 0.0]
    for i, scale in enumerate(scales):
        rows = {k: v[i : i + 1] for k, v in three.items()}
        part = loss_and_gradient(objective, Pair(structure, normal=FixedNoise), **rows)
        expected = [e + scale * p for e, p in zip(expected, part, strict=True)]
    torch.testing.assert_close(actual[0], expected[0], rtol=1e-10, atol=0)
    torch.testing.assert_close(actual[1], expected[1], rtol=1e-9, atol=1e-10)


# ----------------------------------------------- scales and masks of single sites: Pyro's

ROWS = torch.tensor([True, False, True, True, False, True])


def scaled(**scales):
    return {name: poutine.scale(scale=s) for name, s in scales.items()}


def masked(*names):
    return {name: poutine.mask(mask=ROWS) for name in names}


SITES = {
    "scales": scaled(y=0.5, z=2.0, x=1.7),
    "scale-of-y": scaled(y=0.3),
    "masked-rows": masked("y", "z", "x"),
    "masked-x": masked("x"),
    "masked-y": masked("y"),
    "masked-z": masked("z"),
}
ONE_SCALE = {"one-scale": scaled(y=1.7, z=1.7, x=1.7)}


def pyros():
    return TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)


def is_defined(structure, sites, *_):
    """A sum over y in the model needs one scale of all sites."""
    return structure != "model-side" or sites == "one-scale" or sites.startswith("masked")


@pytest.mark.parametrize(
    "structure, sites, plate",
    covering(STRUCTURES, [*SITES, *ONE_SCALE], [None, "plate"], every=3, allowed=is_defined),
)
def test_scales_and_masks_of_single_sites_are_those_of_pyros_elbo(structure, sites, plate):
    """The general path at beta 1, which is no call of Pyro's loss."""
    pair = Pair(structure, plate, {**SITES, **ONE_SCALE}[sites])
    expected = loss_and_gradient(pyros(), pair)
    for objective in (ELBO(beta=1 + 1e-14), ELBO(free_bits={"z": 0.0})):
        actual = loss_and_gradient(objective, pair)
        torch.testing.assert_close(actual[0], expected[0], rtol=1e-11, atol=0)
        torch.testing.assert_close(actual[1], expected[1], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name, structure", covering(ADDITIVE, STRUCTURED, every=3, first=1))
def test_masked_data_points_have_no_part_in_an_objective(name, structure):
    semi = isinstance(OBJECTIVES[name], SemiSupervised)
    others, of_rows = ({"y": LABELS}, {"y": LABELS[ROWS]}) if semi else ({}, {})
    pair = Pair(structure, None, masked("y", "z", "x"), FixedNoise)
    actual = loss_and_gradient(OBJECTIVES[name], pair, **others)
    alone = Pair(structure, normal=FixedNoise)
    expected = loss_and_gradient(OBJECTIVES[name], alone, **data(ROWS), **of_rows)
    torch.testing.assert_close(actual[0], expected[0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(actual[1], expected[1], rtol=1e-9, atol=1e-10)


def test_probabilities_of_a_scaled_or_masked_latent_are_its_own():
    x = data()["x"]
    for sites in (scaled(y=3.0, z=2.0, x=0.5), masked("y", "z", "x")):
        pair = Pair("guide-side", None, sites)
        actual = trace_pair(*pair.one, data()).probabilities("y")
        torch.testing.assert_close(actual, (x @ pair.of_y).softmax(-1))
    pair = Pair("model-side", "plate", scaled(y=3.0, z=3.0, x=3.0))
    traces = trace_pair(*pair.one, data())
    z = traces.guide["z"]["value"].unsqueeze(-1)
    joint = pair.prior.log_softmax(-1) + dist.Normal(pair.centers, 0.9).log_prob(z)
    loc = z.unsqueeze(-1) * pair.decode + pair.shift
    joint = joint + dist.Normal(loc, 0.8).log_prob(x.unsqueeze(1)).sum(-1)
    torch.testing.assert_close(traces.probabilities("y"), joint.softmax(-1))


def test_scales_that_have_no_one_meaning_are_refused_in_one_line():
    cases = [
        (ELBO(beta=0.5), "model-side", scaled(y=0.5), "sum over 'y' in the model needs one scale"),
        (IWAE(), "guide-side", scaled(y=0.5), "an importance weight needs one scale"),
        (SemiSupervised(0.1, 0.5, beta=0.5), "model-side", scaled(x=2.0), "needs one scale"),
    ]
    for objective, structure, sites, message in cases:
        others = {"y": LABELS} if isinstance(objective, SemiSupervised) else {}
        with pytest.raises(pv.UserError, match=message) as e:
            loss_and_gradient(objective, Pair(structure, None, sites), **others)
        assert "\n" not in str(e.value)
    model, _ = Pair("guide-side", None, scaled(z=0.5)).one
    _, guide = Pair("guide-side").one
    with pytest.raises(pv.UserError, match="free_bits of 'z' needs one scale"):
        ELBO(free_bits={"z": 1.0}).differentiable_loss(model, guide, data()["x"])


# ------------------------------------------------------------------------- in training


@pytest.mark.parametrize(
    "name, compile", covering(["elbo", "beta", "iwae", "pyros"], [False, "recorded"], every=2)
)
def test_a_subsampled_plate_changes_neither_the_loss_in_training_nor_its_clipping(name, compile):
    """Between them the four cases have each objective, and each kind of step."""
    torch.set_default_dtype(torch.float64)
    objective = pyros() if name == "pyros" else OBJECTIVES[name]
    x = torch.randn(N, 2)

    def fitted(scale, clip_norm):
        pair = Pair("guide-side", scale)
        run_ = pv.fit(
            *pair.one, x, 1, objective=objective, clip_norm=clip_norm, batch_size=10, lr=1e-2,
            progress=False, compile=compile,
        )  # fmt: skip
        weights = torch.cat([p.detach().flatten() for p in pair.parameters()])
        return torch.tensor([row["loss"] for row in run_.history]), weights

    plain, subsampled = fitted(None, 0.05), fitted("plate", 0.05)
    for actual, expected in zip(subsampled, plain, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-8)
    if not compile:
        _, unclipped = fitted(None, None)
        assert (unclipped - plain[1]).abs().max() > 1e-3  # clipping is in force


@pytest.mark.parametrize("plate", ["none", "rows", "subsampled", "by itself"])
def test_the_mean_loss_is_per_data_point_however_the_plate_is_declared(plate):
    torch.set_default_dtype(torch.float64)
    x, loc = torch.linspace(-1, 1, B), torch.tensor(0.3, requires_grad=True)
    indices = torch.tensor([0, 2, 5])
    makers = {
        "none": lambda: pyro.plate("data"),
        "rows": lambda: pyro.plate("data", B),
        "subsampled": lambda: pyro.plate("data", N, subsample=torch.arange(B)),
        "by itself": lambda: pyro.plate("data", B, subsample=indices),
    }

    def model(x):
        with pyro.plate("components", 4):  # no plate of the data
            pyro.sample("u", dist.Normal(0.0, 1.0))
        with makers[plate]():
            x = x[indices] if plate == "by itself" else x
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    def guide(x):
        with pyro.plate("components", 4):
            pyro.sample("u", dist.Normal(0.0, 1.0))

    actual = PlainStep(Trace_ELBO(), (model, guide))({"x": x})
    rows = x[indices] if plate == "by itself" else x
    log_p = dist.Normal(0.3, 1.0).log_prob(rows).mean()
    torch.testing.assert_close(actual, -log_p)


@pytest.mark.parametrize("how", ["of the distribution", "poutine"])
def test_a_mask_leaves_the_probabilities_of_an_enumerated_latent(how):
    """`fn.mask(mask)` as `poutine.mask`: the terms of masked rows are zero, not their q(y)."""
    p, q = torch.tensor([0.2, 0.3, 0.5]), torch.tensor([0.6, 0.3, 0.1])
    centers = torch.tensor([-1.0, 1.0, 2.0])
    x, keep = torch.linspace(-2, 2, B), torch.tensor([True, False, True, True, False, False])

    def draw(probs):
        fn = dist.Categorical(probs)
        if how == "poutine":
            with poutine.mask(mask=keep):
                return pyro.sample("y", fn, infer={"enumerate": "parallel"})
        return pyro.sample("y", fn.mask(keep), infer={"enumerate": "parallel"})

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(centers[draw(p)], 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            draw(q)

    log_p_x = dist.Normal(centers, 1.0).log_prob(x.unsqueeze(-1))
    expected = {"y": -(q * (q / p).log()).sum() * keep, "x": log_p_x @ q}
    terms = pv.evaluate.elbo_terms(model, guide, x)
    torch.testing.assert_close(terms, expected)
    loss = ELBO(beta={"y": 0.5}).differentiable_loss(model, guide, x)
    torch.testing.assert_close(-loss, (0.5 * expected["y"] + expected["x"]).sum())
    torch.testing.assert_close(pv.evaluate.responsibilities(model, guide, x), q.expand(B, 3))
