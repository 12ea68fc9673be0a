"""What a Pyro user expects of these programs, and what the library expects of Pyro."""

import copy
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn as nn
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, config_enumerate
from torch.distributions import MultivariateNormal as TorchMultivariateNormal

import pyro_vae as pv
from pyro_vae.conditionals import MLP
from pyro_vae.programs.calling import name_of

D, K, LATENT = 5, 3, 2
NET = MLP(hidden=(8,), activation="tanh")
SHU = {"y": ["x"], "z": ["x", "y"]}


def binary(n=32, seed=1):
    p = torch.tensor([0.9, 0.1, 0.9, 0.1, 0.5]).expand(n, D)
    return torch.bernoulli(p, generator=torch.Generator().manual_seed(seed))


def enum_elbo(**options):
    return TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False, **options)


def pairs():
    vae = pv.models.VAE((D,), LATENT, network=NET)
    mixture = pv.models.MixtureVAE((D,), K, LATENT, network=NET)
    gmvae = pv.models.GMVAE((D,), K, LATENT, w_dim=2, network=NET)
    prior = pv.models.VampPrior((D,), LATENT, K, NET)  # model and guide share its encoder
    vamp = pv.models.VAE((D,), LATENT, network=NET, prior=prior)
    return {
        "vae": (vae, pv.guides.Guide(vae, network=NET)),
        "vade": (mixture, pv.guides.Guide(mixture, network=NET)),
        "shu": (mixture, pv.guides.Guide(mixture, SHU, network=NET)),
        "gmvae": (gmvae, pv.guides.Guide(gmvae, network=NET)),
        "vampprior": (vamp, pv.guides.Guide(vamp, network=NET)),
    }


# ------------------------------------------------------------------- SVI on these pairs


@pytest.mark.parametrize("name", ["vae", "vade", "shu", "gmvae", "vampprior"])
def test_svi_trains_these_pairs(name):
    model, guide = pairs()[name]
    x = binary()
    before = copy.deepcopy([*model.parameters(), *guide.parameters()])
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.02}), enum_elbo())
    losses = [svi.step(x) for _ in range(60)]
    assert sum(losses[-10:]) < 0.97 * sum(losses[:10])
    for old, new in zip(before, [*model.parameters(), *guide.parameters()], strict=True):
        assert not torch.equal(old, new)


def test_svi_with_this_librarys_objective():
    model, guide = pairs()["shu"]
    x = binary()
    objective = pv.objectives.ELBO(beta=0.5, free_bits={"y": 0.3})
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.02}), objective)
    losses = [svi.step(x) for _ in range(60)]
    assert sum(losses[-10:]) < 0.97 * sum(losses[:10])
    assert isinstance(svi.evaluate_loss(x), float)


def test_two_pairs_under_svi_share_nothing():
    x = binary()
    (model, guide), (other, other_guide) = pairs()["vae"], pairs()["vae"]
    third, third_guide = copy.deepcopy(model), copy.deepcopy(guide)
    SVI(other, other_guide, pyro.optim.Adam({"lr": 0.1}), enum_elbo()).step(x)
    fork_rng = {k: v.clone() for k, v in other.state_dict().items()}
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), enum_elbo())
    start = {k: v.clone() for k, v in model.state_dict().items()}
    svi.step(x)
    assert all(torch.equal(v, fork_rng[k]) for k, v in other.state_dict().items())
    assert all(torch.equal(v, start[k]) for k, v in third.state_dict().items())
    SVI(third, third_guide, pyro.optim.Adam({"lr": 0.1}), enum_elbo()).step(x)
    assert not any(torch.equal(v, start[k]) for k, v in third.state_dict().items())


def test_outside_of_svi_the_parameter_store_stays_empty():
    x = binary()
    for model, guide in pairs().values():
        pv.fit(model, guide, x, epochs=1, progress=False)
        enum_elbo().differentiable_loss(model, guide, x).backward()
        poutine.trace(guide).get_trace(x)
        pv.evaluate.elbo(model, guide, x)
        pv.check_pair(model, guide, x)
        pv.sample(model, 2)
    assert len(pyro.get_param_store()) == 0


def test_elbo_as_a_module_and_a_torch_optimizer():
    """Pyro's own way: a loss that is a module, whose parameters are the pair's."""
    model, guide = pairs()["vade"]
    x = binary()
    loss = pv.objectives.ELBO()(model, guide)
    assert {id(p) for p in loss.parameters()} == {
        id(p) for m in (model, guide) for p in m.parameters()
    }
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.02)
    values = []
    for _ in range(60):
        optimizer.zero_grad()
        value = loss(x)
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert sum(values[-10:]) < 0.97 * sum(values[:10])
    assert len(pyro.get_param_store()) == 0


def test_svi_and_fit_take_turns():
    model, guide = pairs()["vae"]
    x = binary()
    SVI(model, guide, pyro.optim.Adam({"lr": 0.02}), enum_elbo()).step(x)
    after_svi = {k: v.clone() for k, v in model.state_dict().items()}
    pv.fit(model, guide, x, epochs=1, progress=False)
    assert not torch.equal(model.state_dict()["p_x.head.bias"], after_svi["p_x.head.bias"])


# ----------------------------------------------------------- facts about Pyro: training


class PlainModel(nn.Module):
    """A VAE as a plain torch module, not this library's `Program`."""

    def __init__(self):
        super().__init__()
        self.decoder = nn.Linear(LATENT, D)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)


class PlainGuide(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(D, 2 * LATENT)

    def forward(self, x):
        loc, log_scale = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def test_a_plain_module_under_svi_silently_does_not_move():
    """The trap that `Program` is there for; should Pyro mend it, `Program` can go."""
    model, guide, x = PlainModel(), PlainGuide(), binary()
    before = copy.deepcopy([*model.parameters(), *guide.parameters()])
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    for _ in range(3):
        svi.step(x)
    for old, new in zip(before, [*model.parameters(), *guide.parameters()], strict=True):
        assert torch.equal(old, new)


def test_a_plain_module_trains_under_fit_and_under_pyros_elbo_module():
    x = binary()
    model, guide = PlainModel(), PlainGuide()
    loss = Trace_ELBO()(model, guide)
    loss(x).backward()
    assert all(p.grad is not None for p in loss.parameters())
    before = copy.deepcopy([*model.parameters(), *guide.parameters()])
    pv.fit(model, guide, x, epochs=1, progress=False)
    for old, new in zip(before, [*model.parameters(), *guide.parameters()], strict=True):
        assert not torch.equal(old, new)
    assert len(pyro.get_param_store()) == 0


def test_max_plate_nesting_too_small_is_an_error_and_too_large_is_harmless():
    model, guide = pairs()["shu"]
    x = binary()
    losses = []
    for nesting in (1, 2):
        torch.manual_seed(0)
        elbo = TraceEnum_ELBO(max_plate_nesting=nesting, strict_enumeration_warning=False)
        losses.append(elbo.differentiable_loss(model, guide, x))
    torch.testing.assert_close(*losses)
    with pytest.raises((ValueError, RuntimeError)):
        TraceEnum_ELBO(max_plate_nesting=0).differentiable_loss(model, guide, x)


def test_with_nothing_to_enumerate_trace_enum_elbo_is_trace_elbo():
    model, guide = pairs()["vae"]
    x = binary()
    losses = []
    for elbo in (enum_elbo(), Trace_ELBO()):
        torch.manual_seed(0)
        losses.append(elbo.differentiable_loss(model, guide, x))
    torch.testing.assert_close(*losses)


def test_trace_enum_elbo_warns_where_nothing_is_enumerated():
    model, guide = pairs()["vae"]
    with pytest.warns(UserWarning, match="found no sample sites configured for enumeration"):
        TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(model, guide, binary())
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # ours does not
        pv.objectives.ELBO().differentiable_loss(model, guide, binary())


def scaled_mixture(scale_y, scale_x):
    model, _ = pairs()["vade"]

    def program(x):
        with pyro.plate("data", len(x)):
            with poutine.scale(scale=scale_y):
                y = pyro.sample("y", model.p_y(), infer={"enumerate": "parallel"})
                z = pyro.sample("z", model.p_z(y=y))
            with poutine.scale(scale=scale_x):
                logits = model.p_x(z=z).base_dist.logits + y[..., :1]
                pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    return model, program


def test_sites_beneath_a_y_summed_in_the_model_must_share_one_scale():
    """Why beta is applied to terms here, not by `poutine.scale`."""
    model, program = scaled_mixture(0.5, 1.0)
    in_model = pv.guides.Guide(model, network=NET)
    in_guide = pv.guides.Guide(model, SHU, network=NET)
    with pytest.raises(ValueError, match="scale"):
        enum_elbo().differentiable_loss(program, in_model, binary())
    assert torch.isfinite(enum_elbo().differentiable_loss(program, in_guide, binary()))
    model, program = scaled_mixture(0.5, 0.5)
    in_model = pv.guides.Guide(model, network=NET)
    assert torch.isfinite(enum_elbo().differentiable_loss(program, in_model, binary()))


def test_obs_mask_samples_what_is_not_observed():
    """It does not enumerate: semi-supervision takes two calls."""

    def model(x, y, seen):
        with pyro.plate("data", len(x)):
            fn = dist.OneHotCategorical(logits=torch.zeros(K))
            pyro.sample("y", fn, obs=y, obs_mask=seen, infer={"enumerate": "parallel"})

    y = torch.eye(K)[[0, 1, 2]]
    trace = poutine.trace(model).get_trace(torch.zeros(3, D), y, torch.tensor([True, False, True]))
    assert trace.nodes["y_unobserved"]["type"] == "sample"
    assert not trace.nodes["y_unobserved"]["is_observed"]


def test_an_enumerated_one_hot_puts_its_axis_left_of_the_plate():
    model, _ = pairs()["vade"]
    enum = poutine.enum(model, first_available_dim=-2)
    trace = poutine.trace(enum).get_trace(x=binary(4))
    assert trace.nodes["y"]["value"].shape == (K, 1, K)


# ---------------------------------------------------------------- user-defined programs


class Functional:
    """A linear-Gaussian VAE as two functions, with pyro.module and pyro.param."""

    def __init__(self):
        self.decoder = nn.Linear(LATENT, D)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        scale = pyro.param("scale", torch.tensor(0.7), constraint=dist.constraints.positive)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(x.new_zeros(LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), scale).to_event(1), obs=x)

    def guide(self, x):
        map_ = pyro.param("map", lambda: torch.zeros(D, LATENT))
        spread = pyro.param("spread", torch.full((LATENT,), 0.8), dist.constraints.positive)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Normal(x @ map_, spread).to_event(1))

    def evidence(self, x):
        w, b = self.decoder.weight.detach(), self.decoder.bias.detach()
        covariance = w @ w.T + pyro.param("scale").detach() ** 2 * torch.eye(D)
        return TorchMultivariateNormal(b, covariance).log_prob(x)


def test_two_functions_with_pyro_param_train_under_fit():
    own = Functional()
    torch.manual_seed(1)
    x = torch.randn(64, LATENT) @ torch.randn(LATENT, D) + 0.3 * torch.randn(64, D)
    own.model(x), own.guide(x)
    before = {k: v.detach().clone() for k, v in pyro.get_param_store().items()}
    actual = pv.fit(own.model, own.guide, x, epochs=30, lr=0.03, progress=False)
    assert actual.history[-1]["loss"] < actual.history[0]["loss"] - 0.5
    assert set(before) == {"decoder$$$weight", "decoder$$$bias", "scale", "map", "spread"}
    for name, value in pyro.get_param_store().items():
        assert not torch.equal(value, before[name]), name


def test_the_store_after_fit_has_what_the_programs_put_there():
    own, x = Functional(), torch.randn(8, D)
    options = {"epochs": 1, "lr": 0.01, "progress": False}
    pv.fit(own.model, own.guide, x, **options)
    names = {"decoder$$$weight", "decoder$$$bias", "scale", "map", "spread"}
    assert set(pyro.get_param_store().keys()) == names
    # AdamW's first step is of the size lr, and the second run continues from it
    torch.testing.assert_close(
        pyro.param("map").abs(), torch.full((D, LATENT), 0.01), atol=1e-4, rtol=0
    )
    pv.fit(own.model, own.guide, x, **options)
    assert (pyro.param("map").abs() > 0.0101).any()
    pyro.clear_param_store()
    pv.fit(own.model, own.guide, x, **options)
    torch.testing.assert_close(
        pyro.param("map").abs(), torch.full((D, LATENT), 0.01), atol=1e-4, rtol=0
    )
    pyro.clear_param_store()
    model = pv.models.VAE((D,), LATENT, "normal")
    pv.fit(model, pv.guides.Guide(model), x, **options)
    assert len(pyro.get_param_store()) == 0


def test_a_user_defined_pair_is_evaluated_like_the_librarys():
    own = Functional()
    x = torch.randn(6, D, generator=torch.Generator().manual_seed(2))
    pv.check_pair(own.model, own.guide, x)
    bound = pv.evaluate.log_likelihood(own.model, own.guide, x, num_samples=20_000)
    torch.testing.assert_close(bound, own.evidence(x), atol=0.05, rtol=0)
    elbo = pv.evaluate.elbo(own.model, own.guide, x, num_samples=2000)
    assert (elbo < own.evidence(x)).all()
    terms = pv.evaluate.elbo_terms(own.model, own.guide, x, num_samples=2000)
    q = dist.Normal(x @ pyro.param("map"), pyro.param("spread"))
    kl = torch.distributions.kl_divergence(q, dist.Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(-terms["z"], kl.detach(), atol=0.1, rtol=0)
    codes = pv.evaluate.encode(own.model, own.guide, x)
    torch.testing.assert_close(codes["z"], (x @ pyro.param("map")).detach())


class M2(nn.Module):
    """The shape of Pyro's ss_vae_M2 example: `(xs, ys=None)`, `config_enumerate` on the guide."""

    def __init__(self):
        super().__init__()
        self.decoder = nn.Linear(LATENT + K, D)
        self.encoder_y = nn.Linear(D, K)
        self.encoder_z = nn.Linear(D + K, 2 * LATENT)

    @staticmethod
    def join(a, b):
        shape = torch.broadcast_shapes(a.shape[:-1], b.shape[:-1])
        return torch.cat([a.expand(shape + (-1,)), b.expand(shape + (-1,))], -1)

    def model(self, xs, ys=None):
        pyro.module("m2", self)
        with pyro.plate("data", xs.size(0)):
            zs = pyro.sample("z", dist.Normal(xs.new_zeros(LATENT), 1.0).to_event(1))
            ys = pyro.sample("y", dist.OneHotCategorical(xs.new_ones(K) / K), obs=ys)
            logits = self.decoder(self.join(zs, ys))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=xs)
            return logits

    def guide(self, xs, ys=None):
        with pyro.plate("data", xs.size(0)):
            if ys is None:
                ys = pyro.sample("y", dist.OneHotCategorical(logits=self.encoder_y(xs)))
            loc, log_scale = self.encoder_z(self.join(xs, ys)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def test_an_m2_pair_with_config_enumerate_trains_and_is_evaluated():
    m2, x = M2(), binary()
    guide = config_enumerate(m2.guide, "parallel", expand=True)
    pv.check_pair(m2.model, guide, x)
    before = pv.evaluate.elbo(m2.model, guide, x, num_samples=50).mean()
    actual = pv.fit(m2.model, guide, x, epochs=40, lr=0.03, progress=False)
    assert actual.history[-1]["loss"] < actual.history[0]["loss"]
    after = pv.evaluate.elbo(m2.model, guide, x, num_samples=50).mean()
    assert after > before + 0.2
    with torch.no_grad():
        probabilities = m2.encoder_y(x).softmax(-1)
    torch.testing.assert_close(pv.evaluate.responsibilities(m2.model, guide, x), probabilities)
    bound = pv.evaluate.log_likelihood(m2.model, guide, x, num_samples=200)
    assert (bound.mean() - after) > -0.01


def test_an_m2_pairs_loss_under_fits_objective_is_pyros():
    m2, x = M2(), binary()
    guide = config_enumerate(m2.guide, "parallel", expand=True)
    losses = []
    for objective in (pv.objectives.ELBO(), enum_elbo()):
        torch.manual_seed(0)
        losses.append(objective.differentiable_loss(m2.model, guide, x))
    assert torch.equal(*losses)


def test_a_mask_removes_data_from_a_pairs_terms():
    own = Functional()
    x = torch.randn(6, D, generator=torch.Generator().manual_seed(2))
    seen = torch.tensor([True, False, True, True, False, True])

    def masked(program):
        def run(x):
            with poutine.mask(mask=seen[: len(x)]):
                program(x)

        return run

    terms = pv.evaluate.elbo_terms(masked(own.model), masked(own.guide), x)
    plain = pv.evaluate.elbo_terms(own.model, own.guide, x)
    for site in ("x", "z"):
        assert (terms[site][~seen] == 0).all()
        assert torch.equal(terms[site][seen], plain[site][seen])


def test_a_pairs_scale_is_training_only():
    """`poutine.scale` weighs the loss; what is evaluated is in plain nats."""
    own = Functional()
    x = torch.randn(6, D, generator=torch.Generator().manual_seed(2))
    model, guide = (poutine.scale(p, scale=0.1) for p in (own.model, own.guide))
    a = pv.evaluate.elbo(model, guide, x)
    assert torch.equal(a, pv.evaluate.elbo(own.model, own.guide, x))


def test_a_site_outside_of_the_data_plate_is_refused_by_name():
    def model(x):
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, scale))
            pyro.sample(
                "x", dist.Normal(z.unsqueeze(-1), 1.0).expand([len(x), D]).to_event(1), obs=x
            )

    def guide(x):
        pyro.sample("scale", dist.LogNormal(0.0, 0.1))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, 0], 1.0))

    x = torch.randn(4, D)
    with pytest.raises(pv.UserError, match="'scale' lies outside the data plate"):
        pv.evaluate.log_likelihood(model, guide, x, num_samples=5)


@pytest.mark.parametrize("compile", [False, "recorded"])
@pytest.mark.parametrize("earlier", ["not made", "made", "trained"])
def test_a_parameter_that_a_later_step_is_the_first_to_use_is_refused(compile, earlier):
    """It would not be trained; SVI trains it. Also one that Pyro's store has from before."""
    pyro.clear_param_store()
    if earlier != "not made":
        parameter = pyro.param("late", torch.zeros(2))
        if earlier == "trained":  # SVI leaves a gradient of zeros
            parameter.grad = torch.zeros(2)
    late = {"is_used": False}

    def model(x):
        shift = pyro.param("early", torch.zeros(2))
        if late["is_used"]:
            shift = shift + pyro.param("late", torch.zeros(2))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z + shift, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.7).to_event(1))

    def switched_on(run, metrics):
        late["is_used"] = metrics["epoch"] >= 2

    with pytest.raises(pv.UserError, match=r"pyro.param\('late'\) is not used in the first step"):
        pv.fit(
            model, guide, torch.randn(8, 2), 4, batch_size=4, compile=compile, progress=False,
            callbacks=[switched_on],
        )  # fmt: skip
    pyro.clear_param_store()


def test_parameters_of_another_program_in_the_store_are_no_parameters_of_the_pair():
    """Made by a callback, with a gradient left from a training of its own."""
    pyro.clear_param_store()

    def log(run, metrics):
        pyro.param("of another", torch.zeros(2)).sum().backward()

    x = torch.randn(8, 3)
    model = pv.models.VAE((3,), 2, "normal", pv.conditionals.MLP((4,)))
    guide = pv.guides.Guide(model)
    run = pv.fit(model, guide, x, 3, batch_size=4, callbacks=[log], progress=False)
    assert len(run.history) == 3
    pyro.clear_param_store()


MEANS = torch.tensor([-1.0, 0.0, 2.0])


def labeled(x, ys=None):
    """x around a mean of its class; z has no effect, so that the ELBO with ys is log p(x, ys)."""
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Categorical(torch.ones(3) / 3), obs=ys)
        pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample(
            "x", dist.Normal(MEANS[y].unsqueeze(-1), 1.0).expand([len(x), D]).to_event(1), obs=x
        )


class Undecorated(nn.Module):
    def forward(self, x, ys=None):
        labeled(x, ys)


class DecoratedForward(nn.Module):
    @config_enumerate(default="parallel")
    def forward(self, x, ys=None):
        labeled(x, ys)


class DecoratedCall:
    @config_enumerate
    def __call__(self, x, ys=None):
        labeled(x, ys)


class DecoratedMethod(nn.Module):
    @config_enumerate
    def model(self, x, ys=None):
        labeled(x, ys)


HANDLED = {
    "labeled": config_enumerate(labeled),
    "Undecorated": config_enumerate(Undecorated()),
    "DecoratedForward": DecoratedForward(),
    "DecoratedCall": DecoratedCall(),
    "model": DecoratedMethod().model,
}


@pytest.mark.parametrize("name", HANDLED)
def test_a_program_in_a_handler_keeps_its_arguments_and_its_name(name):
    """With `config_enumerate` on `forward`, the labels were dropped without a word."""

    def guide(x, ys=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))

    model, x, ys = HANDLED[name], torch.randn(6, D), torch.tensor([0, 1, 2, 2, 1, 0])
    joint = dist.Normal(MEANS[:, None, None], 1.0).log_prob(x).sum(-1) + torch.tensor(1 / 3).log()
    with_labels = pv.evaluate.elbo(model, guide, x, ys=ys)
    torch.testing.assert_close(with_labels, joint[ys, torch.arange(6)])
    torch.testing.assert_close(pv.evaluate.elbo(model, guide, x), joint.logsumexp(0))
    prior = pv.evaluate.elbo(model, pv.guides.PriorGuide(model), x, ys=ys)
    torch.testing.assert_close(prior, with_labels)
    assert name_of(model) == name
    run = pv.fit(model, guide, {"x": x, "ys": ys}, 1, progress=False)
    assert repr(run).startswith(f"Run({name} x guide")
