"""Presets in Python: what they resolve to, and what is said of a run that went wrong."""

import contextlib
import io
import re
import warnings

import numpy as np
import pytest
import torch
from commands import main

import pyro_vae as pv
from pyro_vae import methods
from pyro_vae.methods import table
from pyro_vae.methods.advice import Advice
from pyro_vae.methods.command import reproduction

NET = pv.conditionals.MLP((8,))


def advice(*args, **options):
    """The warnings of one `pv.fit`, but for those of its noise: these runs are short."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pv.fit(*args, progress=False, device="cpu", compile=False, **options)
    return of_latents(caught)


def of_latents(caught):
    """The advice among warnings that is not about a scale which is still being learned."""
    messages = [str(w.message) for w in caught if issubclass(w.category, Advice)]
    return [m for m in messages if "times the residuals" not in m]


def vae(x, likelihood="normal"):
    model = pv.models.VAE(tuple(x.shape[1:]), 2, likelihood, NET)
    return model, pv.guides.Guide(model, network=NET), x


def test_a_collapsed_posterior_warns_in_one_line_at_the_end():
    torch.manual_seed(0)
    pair = vae(torch.randn(64, 4))
    (message,) = advice(*pair, epochs=60, lr=1e-2, objective=pv.objectives.ELBO(beta=50.0))
    assert "posterior collapse" in message and "warmup" in message and "\n" not in message


def test_a_posterior_that_is_used_is_not():
    torch.manual_seed(0)
    x = torch.randn(64, 1) @ torch.randn(1, 4) * 2 + 0.1 * torch.randn(64, 4)
    assert advice(*vae(x), epochs=60, lr=1e-2) == []


def test_a_guide_that_is_constant_on_purpose_is_not_warned_of():
    x = torch.randn(64, 4)
    model = pv.models.VAE((4,), 2, "normal", NET)
    assert advice(model, pv.guides.Guide(model, given={"z": []}), x, epochs=10) == []


def test_a_mixture_that_uses_one_component_warns_with_its_remedy():
    torch.manual_seed(0)
    x = torch.randn(64, 1) @ torch.randn(1, 4) * 2 + 0.1 * torch.randn(64, 4)
    model = pv.models.MixtureVAE((4,), 3, 2, "normal", NET)
    with torch.no_grad():
        model.p_y.logits[0] = 30.0
    guide = pv.guides.Guide(model, network=NET)
    (message,) = advice(model, guide, x, epochs=40, lr=1e-2)
    assert (
        "one of the 3 components has all of the data" in message
        and "MixtureInitialization" in message
    )


def test_classes_that_do_not_differ_are_warned_of():
    """q(y | x) is close to p(y) for every x, though its largest class differs."""
    torch.manual_seed(1)
    x = torch.randn(64, 1) @ torch.randn(1, 4) * 2 + 0.1 * torch.randn(64, 4)
    model = pv.models.M2((4,), 3, 2, "normal", NET)
    guide = pv.guides.Guide(model, network=NET)
    with torch.no_grad():
        for parameter in guide.factors["y"].head.parameters():
            parameter.mul_(0.1)
    (message,) = advice(model, guide, x, epochs=10, lr=1e-6)
    assert "the 3 components do not differ" in message and "SemiSupervised" in message


@pytest.mark.parametrize(
    "x, remedy",
    [
        (torch.arange(80.0).reshape(20, 4), "likelihood='poisson'"),
        (torch.randn(40, 3) * torch.tensor([1.0, 1e4, 1.0]), "pv.data.standardize(data)"),
    ],
)
def test_data_that_a_normal_does_not_fit_warn_before_training(x, remedy):
    (message,) = advice(*vae(x), epochs=1)
    assert remedy in message and "\n" not in message


def test_binary_and_standardized_data_are_not_warned_of():
    binary = torch.bernoulli(torch.full((20, 4), 0.5))
    assert advice(*vae(binary), epochs=1) == advice(*vae(torch.randn(20, 4)), epochs=1) == []


def test_the_global_random_stream_and_threads_are_left_alone():
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    pv.method("vae", "digits", epochs=1, hidden=[8]).fit(progress=False)
    assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == threads


def test_two_fits_of_one_method_are_the_same():
    method = pv.methods.vae("digits", epochs=1, hidden=[8])
    losses = [method.fit(progress=False).history[0]["loss"] for _ in range(2)]
    assert losses[0] == losses[1]


def test_named_data_and_the_loaded_ones_give_the_same_configuration():
    for name in ("vae", "m2", "cvae", "gmvae"):
        by_name = pv.method(name, "digits")
        by_data = pv.method(name, pv.data.load("digits"))
        assert by_name.config == by_data.config
        assert torch.equal(
            by_name.data.observed_split("train").x, by_data.data.observed_split("train").x
        )


def test_a_data_set_says_what_it_needs():
    assert (
        pv.data.load("digits").binarize == "none"
        and pv.data.load("digits").likelihood == "binomial"
    )
    vae, cvae = (pv.method(n, "digits") for n in ("vae", "cvae"))
    assert (vae.config["model.likelihood"], vae.config["binarize"]) == ("binomial", "none")
    assert (cvae.config["model.likelihood"], cvae.config["binarize"]) == ("bernoulli", "static")
    assert (cvae.config["condition"], cvae.config["quadrants"]) == ("quadrants", 1)
    binary = pv.method("vae", "digits", likelihood="bernoulli")
    assert binary.config["binarize"] == "dynamic"
    labels = pv.method("cvae", "digits", condition="labels")
    assert (labels.config["binarize"], labels.shapes[2]) == ("none", (10,))


@pytest.mark.parametrize(
    "name, expected",
    [
        ("gmvae", {"epochs": 40, "lr": 2e-3, "batch_size": 256, "model.latent_dim": 16,
                   "model.w_dim": 10, "center": False, "initialize.fits": 2, "weight_decay": 0.0,
                   "initialize.weight_decay": 0.0, "restarts": 3, "initialize.vaes": 1}),
        ("m2", {"objective.alpha": 0.1, "model.latent_dim": 50, "num_labels": 100,
                "network.hidden": [500, 500], "objective.warmup": {"z": 50}}),
        ("vampprior", {"prior.num_components": 500, "initialize": "PseudoInputInitialization"}),
        ("cvae", {"weight_decay": 0.0, "epochs": 40, "model.latent_dim": 16}),
    ],
)  # fmt: skip
def test_the_presets_for_28_by_28_images(name, expected):
    actual = methods.configure(name, "mnist")
    assert {k: actual[k] for k in expected} == expected


def test_every_preset_builds_from_its_own_options_alone():
    for name in methods.METHODS:
        for kind in methods.table.KINDS:
            methods.defaults(name, kind)  # raises where a preset sets what its method does not have
        doc = getattr(pv.methods, name.replace("-", "_")).__doc__
        assert doc.startswith(f"The method {name}:")
        assert "Args:" in doc and f">>> method = pv.methods.{name.replace('-', '_')}(" in doc


# --------------------------------------------------------------------------- tables and counts


def clusters(num_data=600, num_columns=20):
    """Three clusters: counts, more dispersed than a Poisson's, and a table in wildly different units."""
    generator = torch.Generator().manual_seed(1)
    y = torch.arange(num_data) % 3
    profiles = torch.rand(3, num_columns, generator=generator).pow(2) * 30
    noise = torch.rand(num_data, num_columns, generator=generator) + 0.5
    counts = torch.poisson(profiles[y] * noise, generator=generator)
    centers = 2 * torch.randn(3, num_columns, generator=generator)
    table = centers[y] + torch.randn(num_data, num_columns, generator=generator)
    return counts, 50 + table * torch.logspace(-3, 4, num_columns), y


@pytest.mark.parametrize("name, kind", [
    ("vae", "counts"), ("gmvae", "table"),
    pytest.param("vae", "table", marks=pytest.mark.slow),
    pytest.param("gmvae", "counts", marks=pytest.mark.slow),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:the columns of x are standardized")
def test_tables_and_counts_are_modeled_without_a_setting(name, kind):
    counts, table, y = clusters()
    x = counts if kind == "counts" else table
    options = {"epochs": 20, "batch_size": 32, "compile": False}
    if name == "gmvae":
        options |= {"num_components": 3, "epochs": 5, "initialize.epochs": 20}
        options |= {"initialize.batch_size": 32, "initialize.vaes": 1, "initialize.fits": 3}
    method = pv.method(name, pv.data.from_arrays(x, y), **options)
    expected = ("negative-binomial", False) if kind == "counts" else ("normal", True)
    assert (method.config["model.likelihood"], method.config["standardize"]) == expected
    with warnings.catch_warnings():
        warnings.simplefilter("error", Advice)  # posterior collapse, one component
        run = method.fit(progress=False, device="cpu")
    terms = pv.evaluate.elbo_terms(run.model, run.guide, run.data.valid.x)
    assert -sum(terms[latent].mean() for latent in terms if latent != "x") > 1  # nats about x
    if (name, kind) == ("gmvae", "table"):
        q = pv.evaluate.responsibilities(run.model, run.guide, run.data.test.x)
        metrics = pv.evaluate.clustering_metrics(run.data.test.y, q.argmax(-1))
        assert metrics["accuracy"] > 0.9


def test_the_likelihood_of_arrays_is_that_of_their_values():
    names = [
        pv.data.from_arrays(x, **options).likelihood
        for x, options in (
            (torch.tensor([[0, 1], [1, 1]] * 8), {}),
            (torch.tensor([[0, 1], [7, 1]] * 8), {}),
            (torch.tensor([[0, 1], [-7, 1]] * 8), {}),
            (torch.tensor([[0, 0.5], [1, 1]] * 8), {}),
            (torch.tensor([[0, 255], [7, 1]] * 8, dtype=torch.uint8), {}),  # gray levels
            (torch.tensor([[0, 1], [7, 1]] * 8), {"likelihood": "poisson"}),
        )
    ]
    assert names == ["bernoulli", "negative-binomial", "normal", "normal", "normal", "poisson"]


@pytest.mark.parametrize(
    ("reals", "named"),
    [(1, "the column r0 of x is"), (3, "the columns r0, r1, r2 of x are"),
     (5, "the columns r0, r1, r2 and 2 others of x are")],
)  # fmt: skip
def test_the_columns_that_are_standardized_are_named_in_a_table_of_several_kinds(reals, named):
    rng = np.random.default_rng(0)
    frame = {f"r{i}": rng.normal(size=30) for i in range(reals)} | {"n": rng.poisson(3, 30)}
    with pytest.warns(Advice, match=named):
        pv.method("vae", pv.data.from_frame(frame))


def test_a_table_is_standardized_once_with_a_warning_and_not_if_told_so(tmp_path):
    _, table, _ = clusters()
    raw = pv.data.from_arrays(table)
    with pytest.warns(
        Advice, match="columns of x are standardized.*original units.*standardize=False"
    ):
        method = pv.method("vae", raw, epochs=1)
    scaled = pv.data.standardize(raw)
    torch.testing.assert_close(method.data.train.x, scaled.train.x)
    with warnings.catch_warnings():
        warnings.simplefilter("error", Advice)
        assert pv.method("vae", scaled).data.train.x is scaled.train.x
        assert pv.method("vae", raw, likelihood="NormalLikelihood", standardize=False).data is raw
        assert not pv.method("vae", "arcs").config["standardize"]  # has its own units
    run = method.fit(out=tmp_path / "run", progress=False)
    loaded = pv.load(tmp_path / "run", data=raw)  # the run says how it was prepared
    torch.testing.assert_close(loaded.data.train.x, run.data.train.x)
    samples = loaded.sample(200)
    assert samples[:, -1].std() > 100 * samples[:, 0].std()  # in the original units


@pytest.mark.parametrize(
    "options, message",
    [
        ({"lr": -1.0}, "lr must be positive"),
        ({"epochs": 0}, "epochs must be an integer >= 1"),
        ({"batch_size": 0}, "batch_size must be an integer >= 1"),
        ({"patience": 0}, "patience must be an integer >= 1"),
        ({"weight_decay": -1.0}, "weight_decay must be non-negative"),
        ({"clip_norm": 0.0}, "clip_norm must be positive"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"precision": "bf17"}, "did you mean 'bf16'"),
        ({"num_labels": 0}, "num_labels must be an integer >= 1"),
        ({"hidden": [0]}, "hidden must be integers >= 1"),
    ],
)
def test_plain_settings_are_checked_before_the_data_are_loaded(options, message, monkeypatch):
    def load(*arguments):
        raise AssertionError("the data were loaded")

    monkeypatch.setattr(methods.preparing, "prepare", load)
    with pytest.raises(pv.UserError, match=message):
        pv.method("vae", "mnist", **options)


def test_a_residual_network_is_an_option_that_keeps_the_widths_of_the_preset():
    config = pv.methods.configure("vae", "digits", {"network": "ResidualMLP"})
    assert config["network.hidden"] == pv.methods.defaults("vae")["network.hidden"]
    model, guide = pv.methods.build({**config, "model.likelihood": "bernoulli"}, (1, 8, 8))
    for conditional in (model.p_x, guide.factors["z"]):
        assert type(conditional.trunk).__name__ == "_ResidualTrunk"
    with pytest.raises(pv.UserError, match="network takes a class by name"):
        pv.method("vae", "digits", network=lambda in_features: torch.nn.Linear(in_features, 3))


def test_a_methods_own_warmup_can_be_switched_off():
    off = pv.methods.configure("m2", "digits", {"warmup": 0})
    assert off["objective.warmup_start"] == 0
    pv.methods.build({**off, "model.likelihood": "bernoulli"}, (1, 8, 8), num_classes=10)
    with pytest.raises(pv.UserError, match="warmup_start=2.0 has no effect without warmup="):
        pv.method("m2", "digits", warmup=0, warmup_start=2.0)


def test_numbers_of_numpy_are_settings():
    data = pv.data.from_arrays(torch.eye(6))
    plain = pv.method("vae", data, seed=3, epochs=2, lr=0.5)
    numpy = pv.method("vae", data, seed=np.int64(3), epochs=np.int32(2), lr=np.float32(0.5))
    assert numpy.config == plain.config


# ------------------------------------------------------------- options that would have no effect


def table_of(**options):
    return pv.data.from_arrays(torch.eye(12).repeat(2, 1), torch.arange(24) % 3, **options)


@pytest.mark.parametrize("option, value, of_data", [
    ("image_size", 4, ""), ("labels", "species", ""), ("index", "name", ""), ("layer", "raw", ""),
    ("drop", ["a"], ""), ("missing", True, ", which have missing=False"), ("split_seed", 3, ", which have split_seed=1"),
    ("binarize_seed", 3, ", which have binarize_seed=0"),
])  # fmt: skip
def test_an_option_that_says_how_data_are_read_is_refused_of_data_in_memory(option, value, of_data):
    message = re.escape(f"{option}={value} has no effect on data in memory{of_data}: set it where")
    with pytest.raises(pv.UserError, match=message):
        pv.method("vae", table_of(split_seed=1), **{option: value})
    if not of_data:
        with pytest.raises(pv.UserError, match=message):
            pv.method("vae", pv.data.load("digits"), **{option: value})


def test_what_was_done_to_data_in_memory_is_not_undone_without_a_word():
    table = table_of()
    for data, name, overrides in (
        (pv.data.standardize(table), "vae", {"standardize": False}),
        (table.keep_labels(6), "m2", {"num_labels": 9}),
        (table.keep_labels(6), "m2", {"label_seed": 5}),
        (table_of(library_size=True, likelihood="poisson"), "vae", {"library_size": False}),
    ):
        (option,) = overrides
        with pytest.raises(pv.UserError, match=f"^{option}=.* has no effect on data in memory"):
            pv.method(name, data, **overrides)


def test_the_own_options_of_data_in_memory_are_accepted(tmp_path):
    np.savez(tmp_path / "table.npz", x=np.eye(12).repeat(2, 0), y=np.arange(24) % 3)
    data = pv.data.load(str(tmp_path / "table.npz"), split_seed=2, num_labels=6, label_seed=1)
    same = {"split_seed": 2, "num_labels": 6, "label_seed": 1, "missing": False}
    assert pv.method("m2", data, **same).config == pv.method("m2", data).config
    assert pv.method("vae", torch.eye(12), missing=True).config["missing"] is False
    assert pv.method("vae", table_of(split_seed=5)).config["split_seed"] == 5


def test_an_option_that_is_set_twice_by_two_names_raises():
    for overrides, message in (
        (
            {"latent_dim": 3, "model.latent_dim": 4},
            "^model.latent_dim is set twice, as latent_dim and model.latent_dim$",
        ),
        ({"hidden": [3], "network": pv.conditionals.MLP((7,))}, "^network.hidden is set twice"),
        ({"network": pv.conditionals.MLP((7,)), "network.hidden": [3]}, "hidden is set twice$"),
        ({"num-components": 3, "num_components": 4}, "^model.num_components is set twice"),
    ):
        with pytest.raises(pv.UserError, match=message):
            pv.method("vade", "digits", **overrides)
    assert pv.method("vae", "digits", network="Conv", hidden=[9]).config["network.hidden"] == [9]


#: option, a value, and a setting beside which it has an effect
WITHOUT_EFFECT = {
    "guide.temperature": ("gmvae-v1", 3.0, {"guide.discrete": "relaxed"}),
    "objective.leave_one_out_baseline": ("m2", True, {"guide.discrete": "score_function"}),
    "refine.lr": ("vae", 0.1, {"refine.steps": 2}),
    "refine.num_samples": ("vae", 3, {"refine.steps": 2}),
    "refine.clip_norm": ("vae", None, {"refine.steps": 2}),
    "label_seed": ("vae", 4, {"num_labels": 50}),
    "binarize_seed": ("vae", 4, {"model.likelihood": "bernoulli"}),
}


@pytest.mark.parametrize("option", WITHOUT_EFFECT)
def test_an_option_without_effect_is_refused_and_accepted_beside_what_it_needs(option):
    name, value, needed = WITHOUT_EFFECT[option]
    default = methods.defaults(name)[option]
    with pytest.raises(pv.UserError, match=f"^{option}={value} has no effect "):
        methods.configure(name, "digits", {option: value})
    assert methods.configure(name, "digits", {option: default})[option] == default
    assert methods.configure(name, "digits", {option: value, **needed})[option] == value


@pytest.mark.parametrize("option, without, beside", [
    ("guide.discrete", ("vae", "vade", "hybrid-cvae"), ("m2", "shu-gmvae", "skip-dgm")),
    ("guide.share_trunk", ("vae", "m2", "m1-m2", "hierarchical-vae"), ("gmvae", "gmvae-v1")),
    ("center", ("vae-constants", "vae-per-datum", "gsnn", "nn-baseline"), ("vae", "cvae", "m1-m2")),
])  # fmt: skip
def test_what_the_guide_of_a_method_cannot_use_is_refused(option, without, beside):
    value = {"guide.discrete": "relaxed", "guide.share_trunk": False, "center": True}[option]
    for name in without:
        has_option = option in methods.defaults(name)
        with pytest.raises(
            pv.UserError, match="has no effect without" if has_option else "no option"
        ):
            methods.configure(name, "digits", {option: value})
    for name in beside:
        assert methods.configure(name, "digits", {option: value})[option] == value


def test_a_seed_of_fixed_splits_is_refused():
    with pytest.raises(pv.UserError, match="split_seed=3 has no effect on a data set whose splits"):
        methods.configure("vae", "mnist", {"split_seed": 3})
    assert methods.configure("vae", "digits", {"split_seed": 3})["split_seed"] == 3


@pytest.mark.slow
def test_a_setting_of_a_comparison_has_an_effect_in_one_of_its_guides():
    settings = {"refine.lr": 0.1, "hidden": [4], "latent_dim": 2}
    with pytest.raises(pv.UserError, match="refine.lr=0.1 has no effect without refine.steps"):
        methods.compare_guides("vae", guides="diagonal,full", settings=settings)
    result = methods.compare_guides(
        "vae", guides="diagonal,semi-amortized", settings=settings, epochs=1, seeds=1,
        num_gap_data=0, num_samples=2, progress=False, device="cpu",
    )  # fmt: skip
    assert len(result.rows) == 2


def test_a_run_that_has_an_option_without_effect_is_opened_still(tmp_path):
    run = pv.method("vae", "digits", epochs=1, hidden=[4], compile=False).fit(progress=False)
    run.config["refine.lr"] = 0.2  # as an earlier version took it
    run.save(tmp_path / "run")
    assert pv.load(tmp_path / "run").config["refine.lr"] == 0.2


# ------------------------------------------------------------------------------ a printed run


def test_a_run_is_printed_in_a_few_lines_and_shown_in_one(tmp_path):
    method = pv.method("vae", "digits", epochs=2, hidden=[4], compile=False)
    run = method.fit(progress=False, out=tmp_path / "run", device="cpu")
    bound = f"{max(row['elbo'] for row in run.history):.2f}"
    assert str(run).splitlines() == [
        "method      vae: VAE, Guide",
        "data        'digits': 1257 train, 180 valid, 360 test; x [1, 8, 8], 10 classes",
        f"epochs      2; the weights are those of epoch {run.best_epoch}",
        f"validation  ELBO {bound} nats per data point",
        f"folder      {tmp_path / 'run'}",
    ]
    one_line = f"epoch {run.best_epoch} of 2, validation ELBO {bound}, {tmp_path / 'run'})"
    assert repr(run) == f"Run(vae on digits, {one_line}"
    model, guide, x = vae(torch.randn(20, 3))
    by_hand = pv.fit(model, guide, x, epochs=1, progress=False)
    assert str(by_hand).splitlines()[0] == "model, guide  VAE, Guide"


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("gmvae", {"vaes": "six"}, "^initialize.vaes must be an integer, got six$"),
        ("gmvae", {"hidden": "x"}, r"^network.hidden must be a list, e.g. \[64, 32\], got x$"),
        ("vae", {"objective.warmup": "x"}, "^objective.warmup must be an integer or a dict, .*x$"),
    ],
)
def test_a_wrong_option_of_an_object_is_named_with_the_object(name, options, message):
    with pytest.raises(pv.UserError, match=message):
        pv.method(name, "digits", **options)


def test_a_refused_number_of_epochs_does_not_lock_a_run(tmp_path):
    """The file of the configuration stays as it was, so that the same call goes on."""
    folder, x = tmp_path / "run", torch.rand(20, 4)

    def method(epochs):
        return pv.method(
            "vae", x, hidden=[4], latent_dim=1, likelihood="normal",
            schedule="cosine", epochs=epochs,
        )  # fmt: skip

    method(2).fit(folder, progress=False)
    before = (folder / "config.yaml").read_text()
    with pytest.raises(pv.UserError, match="a cosine schedule of 2 epochs .*epochs=2, not 4"):
        method(4).fit(folder, resume=True, progress=False)
    assert (folder / "config.yaml").read_text() == before
    assert len(method(2).fit(folder, resume=True, progress=False).history) == 2


@pytest.mark.parametrize(
    "objective",
    [
        pv.objectives.ELBO(), pv.objectives.ELBO(beta=0.0), pv.objectives.ELBO(beta={"z": 2.0}),
        pv.objectives.ELBO(warmup=3, free_bits={"z": 0.1}), pv.objectives.IWAE(5),
        pv.objectives.Renyi(0.0, 3), pv.objectives.RWS(2), pv.objectives.STL(), pv.objectives.DReG(4),
    ],
)  # fmt: skip
def test_an_objective_of_a_method_is_an_object_too(objective):
    method = pv.method("vae", "digits", objective=objective)
    assert type(method.objective()) is type(objective)
    assert method.objective().describe() == objective.describe()


def test_an_objective_of_ones_own_goes_to_fit():
    class Own(pv.objectives.ELBO):
        pass

    with pytest.raises(pv.UserError, match="not a Own. A pair of your own objects goes to pv.fit"):
        pv.method("vae", "digits", objective=Own())
    with pytest.raises(pv.UserError, match="free_bits must be {latent: nats}"):
        pv.objectives.ELBO(free_bits=0.1)


def test_a_table_trains_for_at_least_200_epochs_and_2000_steps():
    for rows, epochs in ((100, 2000), (200, 1000), (2560, 200)):
        data = pv.data.from_arrays(torch.randn(rows, 2), c=torch.randn(rows, 1), valid=0, test=0)
        for name in ("vae", "cvae"):
            config = pv.method(name, data, batch_size=128).config
            assert config["epochs"] == epochs and config["weight_decay"] == 0.0
    assert pv.method("vae", data, epochs=3).config["epochs"] == 3
    assert pv.method("vade", data).config["epochs"] == 100  # it starts from trained VAEs
    assert pv.method("vae", data, epochs=None).config["epochs"] == 200


def test_weight_decay_of_conditional_models_is_of_digits_alone():
    for name in ("cvae", "relaxed-cvae", "gsnn", "hybrid-cvae", "cvae-baseline", "nn-baseline"):
        decay = {k: pv.methods.defaults(name, k)["weight_decay"] for k in table.KINDS}
        assert decay == {"digits": 1.0, "images": 0.0, "table": 0.0}, name


@pytest.mark.parametrize("name", ["cvae", "nn-baseline"])
def test_a_conditional_model_of_a_table_learns_the_noise(name):
    """x given c is N((c, -c), 0.3), so that log p(x | c) is -0.366 on average."""
    torch.manual_seed(0)
    c = torch.randn(600, 1)
    x = torch.cat([c, -c], 1) + 0.3 * torch.randn(600, 2)
    data = pv.data.from_arrays(x, c=c)
    run = pv.method(name, data, hidden=[32]).fit(progress=False)
    drawn = run.sample(c=torch.ones(5000, 1), mean=False, seed=0)
    torch.testing.assert_close(drawn.std(0), torch.full((2,), 0.3), rtol=0, atol=0.04)
    test = data.test
    exact = torch.distributions.Normal(torch.cat([test.c, -test.c], 1), 0.3).log_prob(test.x).sum(1)
    assert run.log_likelihood(test.x, c=test.c).mean() > exact.mean() - 0.1


def test_covariates_that_a_method_does_not_use_are_named():
    frame = {"a": np.linspace(0, 1, 30), "b": np.linspace(2, 0, 30), "batch": ["u", "v"] * 15}
    data = pv.data.from_frame(frame, covariates=["batch"])
    with pytest.warns(UserWarning, match="m1 does not use the covariates batch; .* relaxed-cvae"):
        pv.method("m1", data)
    with warnings.catch_warnings(action="error", category=Advice):
        pv.method("cvae", data, standardize=True, standardize_c=False)


def test_a_class_named_unknown_is_no_missing_label():
    x, kinds = np.linspace(0, 1, 60), ["B", "T", "Unknown"] * 20
    data = pv.data.from_frame({"a": x, "b": -x, "kind": kinds}, labels="kind")
    with pytest.warns(UserWarning, match="'Unknown' is trained as one of the 3 classes: .*NaN"):
        pv.method("m2", data)
    missing = [None if kind == "Unknown" else kind for kind in kinds]
    partly = pv.data.from_frame({"a": x, "b": -x, "kind": missing}, labels="kind")
    assert partly.class_names == ("B", "T")
    with warnings.catch_warnings(action="error", category=Advice):
        pv.method("m2", partly, standardize=True)
        pv.method("gmvae", data, standardize=True)  # which trains without labels


def test_a_warmup_beyond_the_run_is_said():
    data = pv.data.from_arrays(torch.rand(40, 3).round(), torch.arange(40) % 2)
    options = {"hidden": [4], "latent_dim": 2, "compile": False}
    with pytest.warns(UserWarning, match="warm-up of the KL takes 50 epochs, and the run has 10"):
        pv.method("m2", data, epochs=10, **options).fit(progress=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pv.method("m2", data, epochs=10, warmup=10, **options).fit(progress=False)
    assert not any("warm-up" in str(w.message) for w in caught)


def test_the_latent_of_a_table_is_no_larger_than_half_of_its_columns(tmp_path):
    """24 units for 4 columns: the clusters of two runs agreed by chance."""
    x = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
    cases = (("vae", 6, 3), ("gmvae", 6, 3), ("vade", 3, 2), ("vae", 40, 10), ("vade", 60, 24))
    for name, columns, expected in cases:
        data = pv.data.from_arrays(x.repeat(1, 10)[:, :columns])
        method = pv.method(name, data, standardize=True)
        assert method.config["model.latent_dim"] == expected, (name, columns)
        assert "latent" not in reproduction(method.config, method.data)
    assert pv.method("vae", pv.data.from_arrays(x), latent_dim=5).config["model.latent_dim"] == 5
    assert pv.method("vae", "digits").config["model.latent_dim"] == 24
    assert "model.latent_dim" not in pv.methods.defaults("nn-baseline", "table")
    np.savetxt(tmp_path / "t.csv", x.numpy(), delimiter=",", header="a,b,c,d,e,f", comments="")
    command = ["fit", "vae", "--data", str(tmp_path / "t.csv"), "--epochs", "1"]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main([*command, "--print-config"]) == 0
    (tmp_path / "c.yaml").write_text(printed.getvalue())
    assert "latent_dim: null" in printed.getvalue()
    assert main(["fit", "--config", str(tmp_path / "c.yaml"), "--out", str(tmp_path / "run")]) == 0
    assert pv.load(tmp_path / "run").config["model.latent_dim"] == 3
