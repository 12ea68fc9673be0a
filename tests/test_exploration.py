"""The data of the pages to explore: densities, decoders, conditions, posteriors, refusals."""

import base64
import builtins
import dataclasses
import html
import importlib.util
import json
import math
import re
import shutil
import subprocess
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from commands import main
from presets import configured

import pyro_vae as pv
from pyro_vae import methods
from pyro_vae.comparison.posteriors import load_posteriors
from pyro_vae.conditionals import MLP, Conv
from pyro_vae.data.display import shown_columns
from pyro_vae.exploration import explore_comparison, explore_pair
from pyro_vae.exploration.decoding import LatentSpace
from pyro_vae.exploration.densities import Window, mass_levels, plane_density, smoothed_density
from pyro_vae.exploration.pair import pair_payload, shown_context
from pyro_vae.generate.decoder_arrays import DecoderArrays

SMALL = {"model.latent_dim": 3, "network.hidden": [16], "model.num_components": 4}
NET = MLP((8,))


def unpacked(packed):
    kind = {"f4": "<f4", "u1": "u1"}[packed["dtype"]]
    values = np.frombuffer(base64.b64decode(packed["data"]), kind).copy()
    return torch.as_tensor(values).reshape(packed["shape"])


def space_of(name, num_data=20, **overrides):
    method = methods.Method(configured(name, "digits", **SMALL, **overrides))
    supervised = method.config.get("objective") == "SemiSupervised"
    return LatentSpace(
        shown_context(
            method.model, method.guide, method.data, "test", num_data, supervised=supervised
        )
    )


# ------------------------------------------------------------------- densities


def test_the_level_of_a_normal_density_is_the_closed_form():
    """A standard normal in the plane has the mass m above the height (1 - m) / (2 pi)."""
    window = Window(torch.full((2,), -6.0), torch.full((2,), 6.0))
    density = dist.Normal(torch.zeros(2), 1.0).to_event(1).log_prob(window.grid(400)).exp()
    for mass, level in zip((0.9, 0.5), mass_levels(density, (0.9, 0.5)), strict=True):
        assert level == pytest.approx((1 - mass) / (2 * math.pi), rel=0.01)


def test_the_plane_density_of_a_mixture_is_its_marginal():
    weights = torch.tensor([0.3, 0.7])
    means, scales = torch.randn(2, 4), torch.rand(2, 4) + 0.5
    mixture = dist.MixtureSameFamily(
        dist.Categorical(weights), dist.Normal(means, scales).to_event(1)
    )
    window = Window(torch.full((2,), -2.0), torch.full((2,), 2.0))
    actual, points = plane_density(mixture, (1, 3), window), window.grid()
    exact = sum(
        w * dist.Normal(m[[1, 3]], s[[1, 3]]).to_event(1).log_prob(points).exp()
        for w, m, s in zip(weights, means, scales, strict=True)
    )
    assert torch.allclose(actual, exact.double(), rtol=1e-5)


def test_the_plane_density_of_a_flow_is_taken_where_the_flow_is():
    """On a device without values, which any mix of devices fails on."""
    pytest.importorskip("zuko")
    window = Window(-torch.ones(2), torch.ones(2))
    prior = pv.models.FlowPrior(2, transforms=1, hidden=(8,))
    actual = plane_density(prior(), (0, 1), window)
    expected = prior().log_prob(window.grid().float()).exp()
    torch.testing.assert_close(actual, expected, check_dtype=False)
    with pyro.validation_enabled(False):
        assert plane_density(prior.to("meta")(), (0, 1), window).device.type == "meta"


def test_the_plane_density_of_a_correlated_normal_is_its_marginal():
    factor = torch.randn(3, 3)
    covariance = factor @ factor.T + torch.eye(3)
    window = Window(torch.full((2,), -2.0), torch.full((2,), 2.0))
    actual = plane_density(dist.MultivariateNormal(torch.zeros(3), covariance), (0, 2), window)
    kept = covariance[[0, 2]][:, [0, 2]].double()
    exact = dist.MultivariateNormal(torch.zeros(2).double(), kept).log_prob(window.grid()).exp()
    assert torch.allclose(actual, exact, rtol=1e-5)


def test_smoothed_draws_have_the_density_that_they_are_drawn_from():
    draws = torch.tensor([1.0, -2.0]) + torch.tensor([1.0, 0.5]) * torch.randn(200_000, 2)
    window = Window.around(draws)
    normal = dist.Normal(torch.tensor([1.0, -2.0]), torch.tensor([1.0, 0.5])).to_event(1)
    exact = normal.log_prob(window.grid().float()).exp()
    actual = smoothed_density(draws, window)
    assert (actual - exact).abs().max() < 0.05 * exact.max()  # the kernel takes off some 2 %


# ------------------------------------------------------------------- the data of a page


SLOW_PAGES = ("vae", "vampprior", "m2", "skip-dgm", "cvae")
PAGES = {
    "vae": None, "gmvae": None, "vampprior": None, "hierarchical-vae": None,
    "m2": "y", "skip-dgm": "y", "cvae": "c", "gsnn": "c",
}  # fmt: skip


@pytest.mark.parametrize("name, condition", [
    pytest.param(n, c, marks=[pytest.mark.slow] * (n in SLOW_PAGES)) for n, c in PAGES.items()
])  # fmt: skip
def test_the_page_of_a_method_has_codes_reconstructions_and_densities(name, condition):
    space = space_of(name)
    context = space.context
    payload, note = pair_payload(context, space)
    codes = pv.evaluate.encode(context.model, context.guide, context.x, **context.others)
    expected = torch.cat([codes[latent].flatten(1) for latent in space.sizes], 1)
    assert torch.equal(unpacked(payload["codes"]), expected)
    activity = expected.var(0)
    assert sorted(payload["axes"]) == sorted(activity.argsort(descending=True)[:2].tolist())
    images = pv.evaluate.reconstruct(context.model, context.guide, context.x, **context.others)
    shown = context.as_shown(images).flatten(1)
    assert (unpacked(payload["reconstructions"]) / 255 - shown).abs().max() <= 0.5 / 255 + 1e-6
    assert payload["shape"] == [1, 8, 8] and "decoded exactly" in note
    assert (payload["condition"] or {}).get("title", "None").endswith(str(condition))
    cell = np.prod(np.subtract(payload["window"]["high"], payload["window"]["low"])) / 79**2
    for density in (*payload["prior"], payload["aggregate"]):
        assert 0.85 < unpacked(density["density"]).sum() * cell < 1.001  # the window's mass


def test_each_class_of_a_conditional_model_has_its_prior():
    space = space_of("cvae", condition="labels")
    payload, _ = pair_payload(space.context, space)
    assert payload["condition"]["is_class"] and len(payload["prior"]) == 10
    assert not torch.equal(*(unpacked(payload["prior"][k]["density"]) for k in (0, 1)))


def test_components_are_the_ellipses_of_the_model():
    space = space_of("vade")
    payload, _ = pair_payload(space.context, space)
    index = payload["axes"]
    with torch.no_grad():
        exact = space.model.p_z(y=torch.eye(4))
    for k, ellipse in enumerate(payload["ellipses"]):
        mean, sd = exact.mean[k][index], exact.stddev[k][index]
        assert torch.allclose(torch.tensor(ellipse["center"]).float(), mean, atol=0.3)
        reach = torch.tensor(ellipse["curve"]).amax(1).float() - torch.tensor(ellipse["center"])
        assert torch.allclose(reach.float(), math.sqrt(2 * math.log(10)) * sd, rtol=0.2)


def test_a_convolutional_decoder_is_decoded_on_a_grid():
    data = pv.data.load("digits")
    network = Conv((4, 8), (16,))
    model = pv.models.VAE((1, 8, 8), 3, "binomial", network)
    context = shown_context(model, pv.guides.Guide(model, network=network), data, "test", 20)
    space = LatentSpace(context)
    payload, note = pair_payload(context, space)
    decoder, num = payload["decoder"], payload["decoder"]["num"]
    assert f"a grid of {num} × {num} places" in note and "the other units are 0" in note
    images = unpacked(decoder["images"]).reshape(1, num, num, 64)
    z = torch.zeros(1, 3)
    for axis, unit in enumerate(payload["axes"]):
        low, high = decoder["low"][axis], decoder["high"][axis]
        z[0, unit] = low + (high - low) * (3, 5)[axis] / (num - 1)
    with torch.no_grad():
        exact = model.p_x(z=z).mean.flatten()
    assert (images[0, 3, 5] / 255 - exact).abs().max() <= 0.5 / 255 + 1e-5


@pytest.mark.parametrize("kind, reason", [
    ("columns", "its likelihood has columns of several kinds"),
    ("likelihood", "the mean of its likelihood, ZeroInflatedNegativeBinomial, is no function of one"),
    ("network", "it is not fully connected"),
])  # fmt: skip
def test_the_page_says_why_it_interpolates(kind, reason):
    x, network = torch.randint(0, 2, (60, 3)).float(), NET
    likelihood = {
        "columns": pv.conditionals.Columns((("poisson", 2), ("bernoulli", 1))),
        "likelihood": "zero-inflated-negative-binomial", "network": "poisson",
    }[kind]  # fmt: skip
    if kind == "network":
        network = pv.conditionals.ResidualMLP((8,))
    data = pv.data.from_arrays(x, likelihood=likelihood)
    model = pv.models.VAE((3,), 2, likelihood, network)
    context = shown_context(model, pv.guides.Guide(model, network=NET), data)
    _, note = pair_payload(context, LatentSpace(context))
    assert reason in note and "between means of x" in note
    assert ("not fully connected" in note) == (kind == "network")


def mixed(n=80):
    """Columns of several kinds with labels a, b, c; one income is missing."""
    rng = np.random.default_rng(0)
    income = 25e3 + 5e3 * rng.standard_normal(n)
    income[0] = np.nan
    frame = {
        "income": income, "visits": rng.poisson(2, n), "city": rng.choice(["Rome", "Bonn"], n).tolist(),
        "group": rng.choice(["a", "b", "c"], n).tolist(),
    }  # fmt: skip
    return pv.data.standardize(pv.data.from_frame(frame, labels="group"))


def test_columns_and_labels_of_a_frame_are_shown_by_name():
    data = mixed()
    model = pv.models.VAE((4,), 2, dataclasses.replace(data.likelihood, ignores_missing=True), NET)
    context = shown_context(model, pv.guides.Guide(model, network=NET), data)
    payload, _ = pair_payload(context, LatentSpace(context))
    assert payload["columns"]["names"] == ["income", "visits", "city=Bonn", "city=Rome"]
    assert payload["names"] == {"labels": ["a", "b", "c"], "components": None}
    x = data.unstandardize(data.train.x).double()
    assert payload["columns"]["mean"] == pytest.approx(x.nanmean(0).tolist())
    sd = ((x - x.nanmean(0)) ** 2).nanmean(0).sqrt()
    assert payload["columns"]["sd"] == pytest.approx(sd.tolist(), rel=1e-5)


@pytest.mark.parametrize("x", [torch.rand(40, 3), torch.randint(0, 9, (40, 3)).float()])
def test_counts_and_values_between_0_and_1_have_one_scale_already(x):
    columns = shown_columns(pv.data.from_arrays(x))
    assert columns == (None, None, None)
    assert shown_columns(pv.data.from_arrays(x - 20)).sd is not None


def test_classes_of_a_page_have_the_names_of_the_frame():
    data = mixed().keep_labels(20)
    likelihood = dataclasses.replace(data.likelihood, ignores_missing=True)
    model = pv.models.M2((4,), 3, 2, likelihood, NET)
    context = shown_context(model, pv.guides.Guide(model, network=NET), data, supervised=True)
    payload, _ = pair_payload(context, LatentSpace(context))
    assert payload["condition"]["names"] == payload["names"]["components"] == ["a", "b", "c"]


CHROMIUM = shutil.which("chromium")


def in_page(path, script):
    """What a script returns that runs in the page, which is 1100 pixels wide."""
    run = f"document.title = JSON.stringify((() => {{ {script} }})())"
    text = path.read_text().replace(
        "</body>", f"<script>setTimeout(() => {{ {run} }}, 1500)</script></body>"
    )
    path.write_text(text)
    arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1100,900"]
    command = [CHROMIUM, *arguments, "--virtual-time-budget=6000", "--dump-dom", f"file://{path}"]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    return json.loads(html.unescape(re.search(r"<title>(.*?)</title>", dom, re.DOTALL)[1]))


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_the_chart_of_a_table_has_names_and_one_scale(tmp_path):
    pytest.importorskip("plotly")
    data = mixed()
    model = pv.models.VAE((4,), 2, dataclasses.replace(data.likelihood, ignores_missing=True), NET)
    guide = pv.guides.Guide(model, network=NET)
    path = explore_pair(model, guide, data, tmp_path / "page.html", split="train")
    shown = in_page(path, """
        const box = (s) => document.querySelector(s).getBoundingClientRect();
        explorer.showDatum(1);
        const chart = document.getElementById("chart"), [decoded, datum] = chart.data;
        return {
          ticks: [...chart.querySelectorAll(".xtick text")].map((t) => t.textContent),
          title: chart.querySelector(".xtitle").textContent, bars: [...datum.y],
          hover: datum.hovertext, legend: document.getElementById("plane").data.map((t) => t.name),
          room: box("#chart .xtitle").top - Math.max(...[...chart.querySelectorAll(".xtick text")]
            .map((t) => t.getBoundingClientRect().bottom)),
        };""")  # fmt: skip
    assert shown["ticks"] == data.table.names
    assert shown["title"] == "standard deviations from the mean"
    x, columns = data.unstandardize(data.train.x).double(), shown_columns(data)
    assert shown["bars"] == pytest.approx(((x[1] - columns.mean) / columns.sd).tolist(), rel=1e-4)
    assert shown["hover"][0] == f"income: {float(f'{x[1, 0]:.4g}'):g}"
    assert shown["legend"][:3] == ["a", "b", "c"] and shown["room"] >= 2


def test_standardized_data_are_shown_in_their_original_units():
    x = torch.randn(60, 4) * 7 + 100
    data = pv.data.standardize(pv.data.from_arrays(x))
    model = pv.models.VAE((4,), 2, "normal", NET)
    context = shown_context(model, pv.guides.Guide(model, network=NET), data)
    payload, _ = pair_payload(context, LatentSpace(context))
    assert torch.allclose(unpacked(payload["x"]), data.unstandardize(data.test.x), rtol=1e-5)
    assert payload["shape"] is None and len(payload["decoder"]["scale"]) == 4


# ------------------------------------------------------------------- refusals


def test_models_without_a_latent_plane_get_one_line(tmp_path):
    pytest.importorskip("plotly")
    data = pv.data.from_arrays(torch.randn(40, 3), c=torch.randn(40, 2))
    model = pv.models.NNBaseline((3,), (2,), "normal", NET)
    with pytest.raises(pv.UserError, match="NNBaseline has no continuous latent to explore"):
        explore_pair(model, pv.guides.Guide(model), data, tmp_path / "page.html")
    data = pv.data.from_arrays(torch.randn(40, 3))
    model = pv.models.VAE((3,), 1, "normal", NET)
    with pytest.raises(pv.UserError, match="a plane needs two latent numbers, and VAE has one"):
        explore_pair(model, pv.guides.Guide(model), data, tmp_path / "page.html")
    assert not list(tmp_path.iterdir())


def test_without_plotly_there_is_one_line(tmp_path, monkeypatch):
    real = builtins.__import__

    def without_plotly(name, *args, **options):
        if name.startswith("plotly"):
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without_plotly)
    data = pv.data.from_arrays(torch.randn(40, 3))
    model = pv.models.VAE((3,), 2, "normal", NET)
    with pytest.raises(pv.UserError, match=r'pip install "pyro-vae\[explore\]"'):
        explore_pair(model, pv.guides.Guide(model), data, tmp_path / "page.html")


def test_the_command_writes_the_page_and_refuses_a_comparison_without_posteriors(tmp_path, capsys):
    pytest.importorskip("plotly")
    model = pv.models.VAE((1, 8, 8), 2, "binomial", NET)
    guide = pv.guides.Guide(model, network=NET)
    options = {"compile": False, "progress": False, "out": tmp_path / "run"}
    run = pv.fit(model, guide, pv.data.load("digits"), 1, **options)
    assert main(["explore", str(tmp_path / "run")]) == 0
    page = tmp_path / "run" / "explore.html"
    assert capsys.readouterr().out.strip() == str(page)
    assert 4e6 < page.stat().st_size < 8e6
    assert run.explore(tmp_path / "other.html") == tmp_path / "other.html"
    run.report(num_samples=2)
    assert f"pyro-vae explore {tmp_path / 'run'}" in (tmp_path / "run/report.html").read_text()
    (tmp_path / "compare.json").write_text("{}")
    assert main(["explore", str(tmp_path)]) == 1
    assert "has no posteriors to show" in capsys.readouterr().err


# ------------------------------------------------------------------- comparisons


def test_a_comparison_writes_its_posteriors_gaps_and_decoders(tmp_path):
    model = pv.models.VAE((4,), 2, "normal", NET)
    data = pv.data.from_arrays(torch.randn(60, 4), torch.arange(60) % 3)
    guides = {"full": partial(pv.guides.Guide, network=NET),
              "constant": partial(pv.guides.Guide, network=NET, given={"z": []})}  # fmt: skip
    result = pv.compare(
        model, guides, data, seeds=1, epochs=1, share_model=True, num_samples=20, num_gap_data=5,
        gap_options={"max_steps": 50, "annealing": False}, compile=False, progress=False,
        out=tmp_path,
    )  # fmt: skip
    content = load_posteriors(tmp_path)
    x = data.observed_split("test").x
    assert torch.equal(content["x"], x) and list(content["guides"]) == ["full", "constant"]
    assert torch.equal(content["labels"], data.test.y)
    grid = pv.diagnostics.posterior_grid(model, x, num=60)
    for row, state in zip(result.per_datum, content["guides"].values(), strict=True):
        assert torch.allclose(state["log_likelihood"], grid.log_likelihood, atol=1e-3)
        for name in ("approximation", "amortization"):
            assert torch.equal(state[name], row[name][:5])
        z = torch.randn(3, 2)
        decoded = DecoderArrays(**state["decoder"])(z)
        assert torch.allclose(decoded, model.p_x(z=z).mean, atol=1e-6)
    assert content["label_names"] is None and content["columns"]["names"] is None
    assert torch.equal(content["columns"]["mean"], data.train.x.mean(0, dtype=torch.float64))
    panels = result.plot().axes[1:]
    assert panels and all(ax.get_legend() is None for ax in panels)  # none lies over a posterior
    if CHROMIUM is None or importlib.util.find_spec("plotly") is None:
        return
    room = in_page(explore_comparison(tmp_path), """
        const bottom = (s) => Math.max(...[...document.querySelectorAll(s)]
          .map((e) => e.getBoundingClientRect().bottom));
        return ["#gaps", "#chart"].map((id) => document.querySelector(`${id} .xtitle`)
          .getBoundingClientRect().top - bottom(`${id} .xtick text`));""")  # fmt: skip
    assert min(room) >= 2
