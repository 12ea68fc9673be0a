"""The report: what it says, in which order, and that the page stands alone."""

import html
import math
import re
import shlex
import warnings
import xml.etree.ElementTree as ElementTree

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from commands import parsed_fit
from PIL import Image

import pyro_vae as pv
from pyro_vae.conditionals import MLP
from pyro_vae.evaluate.latents import COLLAPSE_THRESHOLD
from pyro_vae.methods.command import reproduction
from pyro_vae.report import findings, samples, svg
from pyro_vae.report.column_figures import columns, profiles
from pyro_vae.report.context import ReportContext
from pyro_vae.report.html import best_cells
from pyro_vae.report.latent_figures import components, latent_space, latent_units
from pyro_vae.report.sample_figures import conditional_samples, new_samples
from pyro_vae.report.summary import rows, summarize

pytestmark = pytest.mark.usefixtures("drawn")

NET = MLP((16,))
SMALL = {"network.hidden": [16], "epochs": 1}
BITS = (torch.rand(200, 6, generator=torch.Generator().manual_seed(0)) > 0.5).float()


@pytest.fixture(scope="module")
def run():
    method = pv.method("vade", "digits", initialize=None, latent_dim=3, **SMALL)
    return method.fit(progress=False)


@pytest.fixture(scope="module")
def page(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    run.report(path, num_samples=5)
    return path.read_text()


def context_of(run):
    return ReportContext(run.model, run.guide, run.data, run.evaluate(num_samples=5), seed=0)


# ------------------------------------------------------------------- the page


def test_the_page_loads_nothing_and_is_small(page):
    assert "http:" not in page and "https:" not in page
    assert "<script" not in page and "@import" not in page and "<link" not in page
    assert all(
        u.startswith(("data:image/png", "#")) for u in re.findall(r'(?:src|href)="([^"]*)', page)
    )
    assert all(u.startswith("#") for u in re.findall(r"url\(([^)]*)\)", page))
    assert len(page) < 3_000_000


def test_the_page_has_a_dark_mode_that_its_figures_follow(page):
    assert "prefers-color-scheme: dark" in page and "color-scheme: light dark" in page
    assert "svg text { fill: var(--ink)" in page and "stroke: var(--ink)" in page
    for drawn in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        assert not re.search(r"(fill|stroke): (#000000|#222222)", drawn)  # ink is the page's
        assert not re.search(r'id="[^"]*patch_1"[^>]*>\s*<path[^>]*fill: #ffffff', drawn)


def test_figures_are_well_formed_and_their_ids_do_not_collide(page):
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawings) >= 10
    for drawn in drawings:
        named = drawn.replace("<svg", '<svg xmlns:xlink="http://www.w3.org/1999/xlink"', 1)
        ElementTree.fromstring(named)
        used = set(re.findall(r'(?:url\(|href=")#([^)"]*)', drawn))
        assert used <= set(re.findall(r'\bid="([^"]*)"', drawn))
    ids = re.findall(r'\bid="([^"]*)"', "".join(drawings))
    assert len({i.split("-", 1)[0] for i in ids}) == len(drawings)


def test_the_page_fits_a_phone(page):
    assert 'name="viewport" content="width=device-width' in page
    widths = [float(w) for w in re.findall(r'style="width: (\d+)px"', page)]
    assert widths and max(widths) < 500  # shown on 390 pixels, text of 10 points keeps 10 pixels
    assert "max-width: 100%" in page


def test_the_page_begins_with_what_was_found_and_the_command(page, run):
    result = run.evaluate(num_samples=5)
    words = html.escape(findings.headline(result))
    command = html.escape(reproduction(run.config, run.data))
    assert "--model.latent-dim 3" in command
    at = [page.index(words), page.index(command), page.index("<h2>")]
    assert at == sorted(at)
    accuracy = 100 * result["clustering"]["this model"]["accuracy"]
    assert f"the labels for {accuracy:.0f} % of the test data" in words
    assert "k-means" in words and " of 3 latent units are active" in words
    assert repr(result).startswith(findings.headline(result)[:60])


def test_ink_is_a_variable_and_other_colors_stay():
    figure, ax = pv.plots.axes(3, 2)
    ax.plot([0, 1], color=pv.plots.INK)
    ax.plot([1, 0], color=pv.plots.BLUE)
    drawn = svg.inline_svg(figure, 'a "quoted" caption', "f0")
    assert "stroke: var(--ink)" in drawn and f"stroke: {pv.plots.BLUE}" in drawn
    assert 'aria-label="a &quot;quoted&quot; caption"' in drawn


# ------------------------------------------------------------------- what it says


def test_each_column_has_its_best_in_bold_and_ties_all_of_them():
    rows = [("this model", 0.9, 0.2), ("k-means", 0.7, 0.5), ("Ward", 0.9001, 0.4)]
    assert best_cells(rows, 3, max) == {(0, 1), (2, 1), (1, 2)}
    assert best_cells(rows, 3, min) == {(1, 1), (0, 2)}


def test_a_classifier_is_reported_by_its_error_beside_the_best_baseline():
    errors = {"this model": {"test": 0.1}, "SVM on x": {"test": 0.2}, "kNN on x": {"test": 0.028}}
    result = {
        "split": "test", "units": {"z": 1}, "active_units": {"z": 1},
        "classification": {"num_labels": 100, "errors": errors},
    }  # fmt: skip
    assert findings.headline(result) == (
        "With 100 training labels the model misclassifies 10 % of the test data (kNN on x: 2.8 %). "
        "1 of 1 latent unit is active."
    )


def test_a_collapsed_model_of_partly_labeled_data_has_no_classifiers_of_its_codes(tmp_path):
    y = torch.arange(200) % 3 - 1  # a third without a label
    model = pv.models.VAE((6,), 2, network=NET)
    guide = pv.guides.Guide(model, given={"z": []})
    data = pv.data.from_arrays(BITS, y, valid=40, test=40, likelihood="bernoulli")
    run = pv.fit(model, guide, data, 1, compile=False, progress=False)
    result = run.report(tmp_path / "report.html", num_samples=5)
    assert result["active_units"] == {"z": 0}
    assert all(name.endswith(" on x") for name in result["classification"]["errors"])
    assert "log p(x) is estimated as" in findings.headline(result)


@pytest.mark.parametrize("sd, heavy", [(0.5**0.5, False), (0.2, True)])
def test_a_log_likelihood_from_heavy_tailed_weights_is_called_a_lower_bound(sd, heavy):
    """Of a normal guide, k is 1 - Var q / Var p; at the posterior all weights are equal."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, sd).to_event(1))

    data = pv.data.from_arrays(2**0.5 * torch.randn(60, 1), valid=0, test=0.5, likelihood="normal")
    result = summarize(model, guide, data, num_samples=500)
    note = next(note for name, _, note in rows(result) if name == "log-likelihood")
    found = re.search(r"a lower bound \(median k-hat 0\.[789]\d\)", note)
    assert (found is not None) == heavy
    assert ("log p(x) is at least about" in findings.headline(result)) == heavy
    assert ("log p(x) is estimated as" in findings.headline(result)) != heavy


def test_a_guide_with_a_row_for_each_data_point_is_summarized():
    """It cannot run on a few rows."""
    x = torch.randn(80, 6)
    model = pv.models.VAE((6,), 2, "normal", NET)
    guide = pyro.infer.autoguide.AutoNormal(model)
    data = pv.data.from_arrays(x, valid=0, test=0, likelihood="normal")
    pv.fit(model, guide, data, 1, batch_size=80, compile=False, progress=False)
    result = summarize(model, guide, data, split="train", num_samples=100)
    assert math.isfinite(result["log_likelihood"]) and "pareto_k" not in result


def test_the_larger_of_two_lower_bounds_is_the_headline_of_a_conditional_model():
    result = {
        "split": "test", "conditional": True, "elbo": -9.0, "log_likelihood": -8.0,
        "log_likelihood_monte_carlo": -7.5, "units": {}, "active_units": {},
    }  # fmt: skip
    assert "log p(x | c) is estimated as -7.50 nats" in findings.headline(result)


def test_a_collapsed_model_is_reported_with_remedies(tmp_path):
    """At beta = 1000 the KL is zero within a few epochs."""
    model = pv.models.VAE((6,), 2, network=NET)
    guide = pv.guides.Guide(model, network=NET)
    data = pv.data.from_arrays(BITS, valid=40, test=40, likelihood="bernoulli")
    objective = pv.objectives.ELBO(beta=1000.0)
    options = {"lr": 0.02, "batch_size": 40, "compile": False, "progress": False}
    run = pv.fit(model, guide, data, 8, objective=objective, **options)
    result = run.report(tmp_path / "report.html", num_samples=5)
    assert abs(result["terms"]["z"]) < COLLAPSE_THRESHOLD
    (warning,) = findings.warnings(result)
    assert warning.startswith("Posterior collapse: the KL of z is 0.0") and "warmup" in warning
    text = (tmp_path / "report.html").read_text()
    assert '<p class="warning">Posterior collapse' in text
    assert "Posterior collapse" in repr(result)
    assert "To reproduce" not in text  # a pair built by hand has no command


def test_the_collapse_of_a_latent_with_active_units_is_explained():
    """The two criteria differ: a mean of variance 0.04 has a KL of 0.02 nats per unit."""
    result = {
        "split": "test", "elbo": -9.0, "terms": {"x": -8.0, "z": -0.05},
        "unit_activity": {"z": [0.04, 0.03, 1e-5]}, "units": {"z": 3}, "active_units": {"z": 2},
    }  # fmt: skip
    assert findings.headline(result).endswith("2 of 3 latent units are active.")
    (warning,) = findings.warnings(result)
    assert "KL of z is 0.05 nats per data point, so z carries almost no information" in warning
    assert "variance of their posterior mean over the data exceeds 0.01" in warning
    result["unit_activity"]["z"] = [1e-3, 1e-4, 1e-5]
    (warning,) = findings.warnings(result)
    assert "Active units" not in warning


def test_the_kl_by_latent_is_called_an_upper_bound():
    """E KL(q(z | x) || p(z)) = I(x; z) + KL(q(z) || p(z))."""
    model = pv.models.GMVAE((6,), 3, 4, 2, network=NET)
    guide, data = pv.guides.Guide(model, network=NET), pv.data.from_arrays(BITS)
    context = ReportContext(model, guide, data, summarize(model, guide, data, "test", 2), seed=0)
    captions = {s.figure.axes[0].get_title(): s.caption for s in latent_units(context)}
    assert "an upper bound on the information" in captions["KL by latent"]


def test_a_guide_of_constants_is_not_called_collapsed():
    model = pv.models.VAE((6,), 2, network=NET)
    guide = pv.guides.Guide(model, given={"z": []})
    data = pv.data.from_arrays(BITS, valid=40, test=40, likelihood="bernoulli")
    result = summarize(model, guide, data, num_samples=5)
    (warning,) = findings.warnings(result)
    assert "The guide does not depend on x" in warning


def test_a_pair_that_uses_its_latent_gets_no_warning(run, page):
    assert findings.warnings(run.evaluate(num_samples=5)) == []
    assert 'class="warning"' not in page


def test_one_component_with_all_data_is_reported():
    result = {"terms": {"z": -2.0}, "unit_activity": {"z": [1.0]}, "occupancy": [0.0, 1.0]}
    (warning,) = findings.warnings(result)
    assert warning.startswith("One of the 2 components has 100 % of the data")


def test_fewer_than_two_data_points_per_component_say_nothing_about_components():
    result = {"terms": {}, "unit_activity": {}, "occupancy": [0.0, 1.0, 0.0], "units": {}}
    result |= {"split": "test", "elbo": -1.0}
    few, enough = result | {"data": 5}, result | {"data": 6}
    assert findings.warnings(few) == [] and len(findings.warnings(enough)) == 1
    left_out = "clustering scores and the components in use are left out."
    assert findings.omissions(few) == [
        f"5 data points are too few for statements about 3 components, which take 6: {left_out}"
    ]
    assert findings.omissions(enough) == []
    bound = "On the test data the ELBO is -1.00 nats per data point."
    assert findings.headline(few) == bound
    assert findings.headline(enough) == f"1 of 3 components are in use. {bound}"
    labeled = findings.omissions(enough | {"few_labels": 1})
    start = "1 labeled data point is too few for statements about 3 components, which take 6:"
    assert labeled == [f"{start} clustering scores are left out."]


@pytest.mark.parametrize("rows, labels, few", [(6, 6, None), (6, 5, 5), (5, 5, 5), (1, 1, 1)])
def test_clusters_are_scored_with_two_labels_per_component(rows, labels, few):
    torch.manual_seed(0)
    network = pv.conditionals.MLP((8,))
    model = pv.models.MixtureVAE((6,), 3, 2, likelihood="normal", network=network)
    guide = pv.guides.Guide(model, given={"y": ["x"], "z": ["x", "y"]}, network=network)
    x, y = torch.randn(40, 6), torch.arange(40) % 3
    run = pv.Run(model, guide, data=pv.data.from_arrays(x, y, valid=0, test=0))
    new = x[:rows], torch.where(torch.arange(rows) < labels, y[:rows], -1)
    for data in (new, [{"x": new[0], "y": new[1]}]):
        result = run.evaluate(data=data, num_samples=2)
        assert result.get("few_labels") == few and ("clustering" in result) == (few is None)
        printed = " ".join(str(result).split())
        assert ("accuracy" in printed) == (few is None)
        assert ("too few for statements" in printed) == (few is not None)
        assert ("The new data are of" in printed) == (rows == 6 and few is not None)
        assert ("units are active" in printed) == (rows > 1)
        assert ("of 2 units active" in printed) == (rows > 1)


def test_clusters_and_their_scores_do_not_depend_on_the_batches():
    """The labels of a loader score a model that was trained without any; other entries are left out."""
    torch.manual_seed(0)
    model = pv.models.MixtureVAE((6,), 3, 2, likelihood="normal", network=pv.conditionals.MLP((8,)))
    guide = pv.guides.Guide(model, network=pv.conditionals.MLP((8,)))
    x, y = torch.randn(40, 6), torch.arange(40) % 3
    run = pv.Run(model, guide, data=pv.data.from_arrays(torch.randn(40, 6), valid=0, test=0))
    whole = run.evaluate(data=(x, y), num_samples=2)["clustering"]["this model"]
    pairs = torch.utils.data.TensorDataset(x, y)
    for batches in (
        torch.utils.data.DataLoader(pairs, 7),
        [(x[:9], y[:9]), (x[9:], y[9:].double())],
        [{"x": x[:9], "y": y[:9]}, {"x": x[9:], "y": y[9:]}],
    ):
        assert run.evaluate(data=batches, num_samples=2)["clustering"] == {"this model": whole}
        torch.testing.assert_close(run.encode(batches)["y"], run.encode(x)["y"])
    for other in ([f"file{i}" for i in range(40)], x[:, 0], x):
        loader = torch.utils.data.DataLoader([*zip(x, other, strict=True)], 7)
        assert "clustering" not in run.evaluate(data=loader, num_samples=2)
        torch.testing.assert_close(run.encode(loader)["y"], run.encode(x)["y"])


# ------------------------------------------------------------------- its figures


def test_components_have_one_order_in_all_figures(run):
    context = context_of(run)
    order = [str(i) for i in pv.plots.component_order(context.y, context.clusters, 10)]
    bars, table = (section.figure.axes[0] for section in components(context))
    (rows,) = (section.figure.axes[0] for section in new_samples(context))
    assert [t.get_text() for t in bars.get_xticklabels()] == order
    assert [t.get_text() for t in table.get_yticklabels()] == order
    assert [t.get_text() for t in rows.get_yticklabels()] == order


def test_labels_change_the_order_of_components_and_nothing_else(run):
    """With other labels the same codes, ellipses and samples are shown."""
    context, other = context_of(run), context_of(run)
    other.y = other.labels = context.labels.flip(0)
    assert not (context.order == other.order).all()
    for a, b in zip(latent_space(context)[:1], latent_space(other)[:1], strict=True):
        points = [s.figure.axes[0].collections[0].get_offsets() for s in (a, b)]
        assert (points[0] == points[1]).all()


def test_ellipses_are_those_of_the_models_components(run):
    context = context_of(run)
    means, covariances = context.components("z")
    with torch.no_grad():
        exact = run.model.p_z(y=torch.eye(10))
    sd = exact.base_dist.scale if hasattr(exact, "base_dist") else exact.covariance_matrix.diagonal(
        dim1=-2, dim2=-1).sqrt()  # fmt: skip
    assert ((means - exact.mean).abs() < 5 * sd / 500**0.5).all()
    variances = covariances.diagonal(dim1=-2, dim2=-1)
    assert ((variances / sd**2 - 1).abs() < 5 * (2 / 500) ** 0.5).all()
    axes = latent_space(context)[0].figure.axes[0]
    assert (
        len(axes.patches) == 10
        and axes.get_xlabel() == "unit 0 of z"
        or "principal" in axes.get_xlabel()
    )


def test_given_quadrants_are_outlined():
    method = pv.method("cvae", "digits", quadrants=1, **SMALL)
    context = ReportContext(
        method.model, method.guide, method.data,
        summarize(method.model, method.guide, method.data, num_samples=3), seed=0,
    )  # fmt: skip
    (section,) = conditional_samples(context)
    (lines,) = section.figure.axes[0].collections
    assert len(lines.get_segments()) == 8 * 9 * 16  # eight rows, nine columns, a square of side 4


def test_a_figure_of_very_many_samples_is_capped_and_the_arrays_are_whole(run):
    sheet = run.sheet("prior", num=4000)
    assert sheet.arrays(run.data)["x"].shape == (4000, 1, 8, 8)
    columns = 64  # the root of 4000, rounded up
    height = sheet.figure(run.data).axes[0].images[0].get_array().shape[0]
    assert height == samples.MOST_ROWS * 9 - 1 < (4000 // columns) * 9


def test_a_user_defined_pair_with_one_latent_number_has_a_report(tmp_path):
    """z is a number, not a vector: its codes are `[N]`."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1) * torch.ones(3), 1.0).to_event(1), obs=x)

    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(3))

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x @ self.weight, 1.0))

    data = pv.data.from_arrays(torch.randn(60, 3), valid=10, test=10)
    run = pv.fit(model, Encoder(), data, 1, compile=False, progress=False)
    result = run.report(tmp_path / "report.html", num_samples=3)
    assert result["units"] == {"z": 1}
    assert "unit 0 of z" in (tmp_path / "report.html").read_text()


# ------------------------------------------------------------------- tables


def mixed_frame(n=300):
    """Columns of every kind, some values missing, and labels a, b, c."""
    rng = np.random.default_rng(0)
    income, city = 25e3 + 5e3 * rng.standard_normal(n), rng.choice(["Berlin", "Rome"], n)
    return {
        "income": np.where(rng.random(n) < 0.1, np.nan, income),
        "visits": rng.poisson(1.5, n),
        "member": rng.random(n) < 0.3,
        "city": [
            None if gone else str(v) for v, gone in zip(city, rng.random(n) < 0.1, strict=True)
        ],
        "group": [str(v) for v in rng.choice(["a", "b", "c"], n)],
    }


@pytest.fixture(scope="module")
def table_run():
    data = pv.data.from_frame(mixed_frame(), labels="group")
    options = {
        "epochs": 1,
        "hidden": [8],
        "num_components": 3,
        "initialize": None,
        "compile": False,
    }
    return pv.method("gmvae", data, **options).fit(progress=False)


def test_a_profile_has_the_moments_of_each_components_data(table_run):
    """Against a loop over rows, in original units; the data of all splits, or of one, or new ones."""
    frame = {k: v for k, v in mixed_frame().items() if k != "group"}
    y = table_run.encode(frame)["y"]
    found = table_run.profile(frame)
    assert list(found) == [
        "y", "count", "fraction", "income", "income_sd", "visits", "visits_sd", "member",
        "city", "city_fraction",
    ]  # fmt: skip
    for k in range(3):
        rows = np.flatnonzero(y == k)
        assert (found["y"][k], found["count"][k]) == (k, len(rows))
        assert found["fraction"][k] == pytest.approx(len(rows) / 300)
        if not len(rows):
            assert found["income"][k] is found["city"][k] is None
            continue
        income = frame["income"][rows]
        income = income[~np.isnan(income)]
        assert found["income"][k] == pytest.approx(income.mean(), rel=1e-5)
        assert found["income_sd"][k] == pytest.approx(income.std(), rel=1e-4)
        assert found["visits"][k] == pytest.approx(frame["visits"][rows].mean())
        assert found["member"][k] == pytest.approx(frame["member"][rows].mean())
        cities = [frame["city"][i] for i in rows if frame["city"][i] is not None]
        most = max(("Berlin", "Rome"), key=cities.count)
        assert cities.count(found["city"][k]) == cities.count(most)
        assert found["city_fraction"][k] == pytest.approx(cities.count(most) / len(cities))
    own = table_run.profile()
    assert list(own) == list(found) and own["count"].tolist() == found["count"].tolist()
    parts = [table_run.profile(split=split)["count"] for split in ("train", "valid", "test")]
    assert sum(parts).tolist() == own["count"].tolist()


def test_a_column_that_is_named_like_the_spread_of_another_stays_a_column():
    random = np.random.default_rng(0)
    frame = {"a": random.normal(5, 1, 60), "a_sd": random.uniform(100, 101, 60)}
    data = pv.data.from_frame(frame)
    options = {"hidden": [4], "latent_dim": 2, "epochs": 1, "num_components": 2}
    found = pv.method("mixture-vae", data, **options).fit(progress=False).profile()
    assert list(found)[3:] == ["a", "_a_sd", "a_sd", "a_sd_sd"]
    k = int(np.argmax(found["count"]))
    assert found["_a_sd"][k] < 2 and 100 < found["a_sd"][k] < 101


def test_a_profile_needs_components_and_columns():
    x = torch.rand(60, 3)
    run = pv.method("vae", x, hidden=[4], latent_dim=1, epochs=1).fit(progress=False)
    with pytest.raises(pv.UserError, match="this model has none"):
        run.profile()
    with pytest.raises(pv.UserError, match="this model has none"):
        run.profile(x)
    options = {"hidden": [4], "latent_dim": 1, "epochs": 1, "num_components": 3, "initialize": None}
    run = pv.method("vade", x, **options).fit(progress=False)
    found = run.profile(x)
    assert list(found) == [
        "y", "count", "fraction", *(f"x_{i}{end}" for i in range(3) for end in ("", "_sd"))
    ]  # fmt: skip
    assert sum(found["count"]) == 60
    with pytest.raises(pv.UserError, match="leave out x or split"):
        run.profile(x, split="test")
    run = pv.method("vade", x.reshape(60, 1, 3, 1), **options).fit(progress=False)
    with pytest.raises(pv.UserError, match="columns are of vectors"):
        run.profile()
    with pytest.raises(pv.UserError, match=r"column 'a' has shape \[2\], the components \[3\]"):
        pv.evaluate.column_profiles({"a": [1, 2]}, [0, 0, 0], 1)


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_a_missing_value_changes_no_kind_of_a_column(missing):
    columns = {
        "age": [30, 40, 60, missing],
        "smokes": [True, False, True, missing],
        "town": ["Bonn", "Bonn", "Ulm", missing],
    }
    age, smokes, town = pv.evaluate.column_profiles(columns, [0, 0, 1, 1], num_components=2)
    assert (age.kind, age.centers, age.spreads) == ("number", [35.0, 60.0], [5.0, 0.0])
    assert (smokes.kind, smokes.centers) == ("fraction", [0.5, 1.0])
    assert (town.kind, town.centers, town.spreads) == ("category", ["Bonn", "Ulm"], [1.0, 1.0])


def test_pandas_missing_values_and_dates_have_profiles():
    pandas = pytest.importorskip("pandas")
    columns = {
        "n": pandas.Series([1, None, 3, 4], dtype="Int64"),
        "text": pandas.Series(["a", None, "b", "b"], dtype="string"),
        "day": pandas.Series(pandas.to_datetime(["2020-01-01", None, "2021-01-01", "2021-01-01"])),
    }
    n, text, day = pv.evaluate.column_profiles(columns, [0, 0, 1, 1], num_components=2)
    assert (n.kind, n.centers) == ("number", [1.0, 3.5])
    assert (text.kind, text.centers) == ("category", ["a", "b"])
    assert day.kind == "category" and [d[:10] for d in day.centers] == ["2020-01-01", "2021-01-01"]


def test_the_report_of_a_table_has_the_profile_of_each_component(table_run, tmp_path):
    context = context_of(table_run)
    (section,) = profiles(context)
    header, counts, *rows = section.table
    assert header[0] == "component" and counts[0] == "data"
    split = context.result["split"]
    found = table_run.profile(split=split)
    shown = [int(k) for k in header[1:]]
    assert [int(n) for n in counts[1:]] == [found["count"][k] for k in shown]
    assert [row[0] for row in rows] == ["income", "visits", "member", "city"]
    for j, k in enumerate(shown, 1):
        mean, sd = (float(part) for part in rows[0][j].split(" ± "))
        assert mean == pytest.approx(found["income"][k], abs=1)
        assert sd == pytest.approx(found["income_sd"][k], abs=1)
        assert rows[2][j] == f"{100 * found['member'][k]:.0f} %"
        assert rows[3][j] == f"{found['city'][k]} ({100 * found['city_fraction'][k]:.0f} %)"
    table_run.report(tmp_path / "report.html", num_samples=3)
    page = (tmp_path / "report.html").read_text()
    assert "<h2>Profiles</h2>" in page and html.escape(rows[0][1]) in page


def test_each_column_of_a_table_is_shown_in_the_data_and_in_draws(table_run):
    context = context_of(table_run)
    (section,) = columns(context)
    panels = {ax.get_title(): ax for ax in section.figure.axes if ax.get_title()}
    assert list(panels) == ["income", "visits", "member", "city"]
    assert [t.get_text() for t in panels["city"].get_xticklabels()] == ["Berlin", "Rome"]
    table, x = table_run.data.table, table_run.data.unstandardize(context.x)
    decoded = table.decode(x)
    fractions = [p.get_height() for p in panels["city"].patches]
    known = [v for v in decoded["city"] if v is not None]
    assert fractions[0] == pytest.approx(known.count("Berlin") / len(known))
    assert sum(fractions[:2]) == pytest.approx(1) and sum(fractions[2:]) == pytest.approx(1)
    data, draws = (patch.get_data() for patch in panels["income"].patches)
    income = x[:, 0][~x[:, 0].isnan()]
    assert data.values.sum() == pytest.approx(1) and draws.values.sum() == pytest.approx(1)
    assert (data.edges == draws.edges).all() and 1e4 < data.edges[0] < income.median()
    assert "as many draws of the model, as fractions of the observed" in section.caption
    assert "in original units" in section.caption


def test_draws_of_columns_have_the_covariates_of_the_data():
    """The test data have other covariates than the training data."""
    c = torch.cat([torch.zeros(80, 1), torch.full((20, 1), 50.0)])
    data = pv.data.Data(
        pv.data.Split(torch.cat([c, c, -c], 1)[:80], c=c[:80]), test=pv.data.Split(
            torch.cat([c, c, -c], 1)[80:], c=c[80:])
    )  # fmt: skip
    model = pv.models.CVAE((3,), (1,), 2, "normal", NET)
    guide = pv.guides.Guide(model, network=NET)
    context = ReportContext(model, guide, data, summarize(model, guide, data, num_samples=3), 0)
    (section,) = columns(context)
    assert "for the same covariates" in section.caption
    assert [ax.get_title() for ax in section.figure.axes][:3] == [f"column {i}" for i in range(3)]
    drawn = pv.sample(model, 20, c=c[80:], seed=0)[:, 0].numpy()
    lines = section.figure.axes[0].patches[1].get_data()
    assert np.allclose(
        lines.values, np.histogram(drawn.clip(*lines.edges[[0, -1]]), lines.edges)[0] / 20
    )


def test_only_the_first_columns_of_a_wide_table_are_shown():
    data = pv.data.from_arrays(torch.randn(60, 40))
    model = pv.models.VAE((40,), 2, "normal", NET)
    guide = pv.guides.Guide(model, network=NET)
    context = ReportContext(model, guide, data, summarize(model, guide, data, num_samples=3), 0)
    (section,) = columns(context)
    assert len(section.figure.axes) == 24 and "first 24 of 40 columns" in section.caption
    assert len(svg.inline_svg(section.figure, section.caption, "f0")) < 300_000


def test_the_library_size_of_draws_is_said():
    counts = torch.randint(0, 20, (60, 3)).float() + 1
    data = pv.data.with_library_size(pv.data.from_arrays(counts, likelihood="negative-binomial"))
    model = pv.models.VAE((3,), 2, data.likelihood, NET)
    guide = pv.guides.Guide(model, network=NET)
    context = ReportContext(model, guide, data, summarize(model, guide, data, num_samples=3), 0)
    (section,) = columns(context)
    assert f"All draws have the library size {data.likelihood.size:g}" in section.caption


def test_images_and_points_in_the_plane_have_no_columns(run):
    assert columns(context_of(run)) == []
    data = pv.data.from_arrays(torch.randn(60, 2))
    model = pv.models.VAE((2,), 2, "normal", NET)
    guide = pv.guides.Guide(model, network=NET)
    assert columns(ReportContext(model, guide, data, {"split": "test", "terms": {}}, 0)) == []


def test_labels_have_the_names_of_the_frame(table_run):
    context = context_of(table_run)
    table = components(context)[1].figure.axes[0]
    assert [t.get_text() for t in table.get_xticklabels()] == ["a", "b", "c"]
    by_label = next(s for s in latent_space(context) if s.caption.endswith("colored by label."))
    assert [t.get_text() for t in by_label.figure.axes[0].texts] == ["a", "b", "c"]


def test_points_are_lighter_in_dark_mode():
    """The darkest group of points, and many points as one picture, on the dark page."""

    def luminance(color):
        values = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
        return sum(w * v for w, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    dark = svg.STYLE[svg.STYLE.index("prefers-color-scheme: dark") :]
    for color in (pv.plots.BLUE, *pv.plots.CATEGORIES):
        lighter = re.search(rf'"fill: {color}"\] {{ fill: (#\w+)', dark)[1]
        assert (luminance(lighter) + 0.05) / (luminance("#17191d") + 0.05) > 4.5
    figure, ax = pv.plots.axes()
    pv.plots.scatter(ax, torch.randn(pv.plots.RASTER + 1, 2))
    assert '<image class="points"' in svg.inline_svg(figure, "points", "f0")
    figure, ax = pv.plots.axes()
    pv.plots.images(ax, torch.rand(4, 8, 8))
    assert "<image " in (drawn := svg.inline_svg(figure, "data", "f0")) and "points" not in drawn
    assert 'id="lighter"' in svg.FILTER and "url(#lighter)" in dark


# ------------------------------------------------------------------- units


def test_the_kl_of_units_sums_to_the_kl_of_the_latent(run):
    data = run.data.observed_split("test")
    terms = pv.evaluate.elbo_terms(run.model, run.guide, data.x, num_samples=200, seed=3)
    kls = pv.evaluate.unit_kl(run.model, run.guide, data.x, num_samples=4, seed=3)
    assert set(kls) <= {"z"}
    for name, kl in kls.items():
        assert kl.sum().item() == pytest.approx(-terms[name].mean().item(), rel=0.01)


def test_the_kl_of_units_is_the_closed_form_of_normals():
    model = pv.models.VAE((6,), 3, network=NET)
    guide = pv.guides.Guide(model, network=NET)
    x = BITS[:50]
    actual = pv.evaluate.unit_kl(model, guide, x, num_samples=1)["z"]
    with torch.no_grad():
        q = guide.factors["z"](x=x).base_dist
    exact = 0.5 * (q.loc**2 + q.scale**2 - 1) - q.scale.log()
    torch.testing.assert_close(actual, exact.mean(0))  # without noise: it ranks units


def test_units_that_do_not_factorize_have_no_kl():
    model = pv.models.GMVAE(
        (6,), 3, 4, 2, network=NET, component=pv.conditionals.MultivariateNormal()
    )
    guide = pv.guides.Guide(model, network=NET)
    assert set(pv.evaluate.unit_kl(model, guide, BITS[:20])) == {"w"}
    activity = pv.evaluate.unit_activity(model, guide, BITS[:20])
    codes = pv.evaluate.encode(model, guide, BITS[:20])
    assert torch.equal(activity["z"], codes["z"].var(0)) and activity["w"].shape == (2,)


def test_the_report_says_why_the_units_of_a_latent_have_no_kl():
    """Each component of this p(z | w, y) has a full covariance, as gmvae's."""
    full = pv.conditionals.MultivariateNormal()
    model = pv.models.GMVAE((6,), 3, 4, 2, network=NET, component=full)
    guide, data = pv.guides.Guide(model, network=NET), pv.data.from_arrays(BITS)
    context = ReportContext(model, guide, data, summarize(model, guide, data, "test", 2), seed=0)
    captions = {s.figure.axes[0].get_title().split()[-1]: s.caption for s in latent_units(context)}
    reason = "A KL of each unit does not exist: the units of the prior, or of the guide, depend on"
    assert reason in captions["z"] and reason not in captions["w"]


# ------------------------------------------------------------------- the command


@pytest.mark.parametrize("name, overrides", [
    ("gmvae", {}),
    ("vae", {"latent_dim": 2, "seed": 7, "objective": "IWAE", "objective.num_particles": 8}),
    ("vae", {"network": "Conv", "network.channels": [8, 16], "clip_norm": 1.0}),
    ("vae", {"likelihood": "bernoulli"}),
    ("m2", {"num_labels": 50, "label_seed": 3}),
    ("cvae", {"quadrants": 2}),
    ("cvae", {"condition": "labels"}),
    ("vampprior", {"prior.num_components": 20, "weight_decay": 0.0}),
    ("vade", {"initialize": None}),
])  # fmt: skip
def test_the_command_reproduces_the_configuration(name, overrides):
    method = pv.method(name, "digits", **overrides)
    words = shlex.split(reproduction(method.config, method.data))
    config, _, _ = parsed_fit(words[2:])
    assert pv.methods.Method(config).config == method.config


def test_a_default_run_has_the_shortest_command():
    method = pv.method("gmvae")
    assert reproduction(method.config, method.data) == "pyro-vae fit gmvae"


def test_a_run_on_arrays_is_reproduced_in_python():
    method = pv.method("vae", BITS, latent_dim=2, lr=0.01)
    text = reproduction(method.config, method.data)
    assert text.startswith("pv.method('vae', data")
    again = eval(text.removesuffix(".fit()"), {"pv": pv, "data": BITS})
    assert again.config == method.config


def test_the_command_states_the_samples_of_its_log_likelihood(tmp_path):
    """Else it would print another log-likelihood; 500 is the command's default."""
    assert parsed_fit(["vae"])[1]["num_samples"] == 500
    method = pv.method("vae", "digits", epochs=1, hidden=[4], compile=False)
    run = method.fit(progress=False, out=tmp_path / "run", device="cpu")
    for num_samples, words in ((7, " --num-samples 7"), (500, "")):
        run.report(num_samples=num_samples)
        page = (tmp_path / "run" / "report.html").read_text()
        assert f" --epochs 1 --compile false{words}</pre>" in html.unescape(page)
    arrays = pv.method("vae", BITS)
    assert reproduction(arrays.config, arrays.data, 7).endswith(".fit().evaluate(num_samples=7)")


def test_a_figure_that_cannot_be_drawn_does_not_end_the_report(tmp_path, monkeypatch):
    """One data point, which has no spread, is drawn; and a drawing that fails loses no number."""
    torch.manual_seed(0)
    model = pv.models.VAE((6,), 2, likelihood="normal")
    run = pv.fit(model, pv.guides.Guide(model), torch.rand(1, 6), epochs=1, progress=False)
    pages = []
    for fails in (False, True):
        if fails:
            monkeypatch.setattr(pv.plots, "scatter", None)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            result = run.report(tmp_path / "report.html", num_samples=5)
        pages.append((tmp_path / "report.html").read_text())
        assert math.isfinite(result["log_likelihood"]) and "Training" in pages[-1]
    assert "Figures that could not be drawn" not in pages[0]
    assert "Figures that could not be drawn" in pages[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, rows, options",
    [
        ("vae", 1, {}),
        ("vae", 6, {}),
        ("vae", 8, {}),
        ("gmvae", 60, {"num_components": 100, "initialize": None}),
        ("m2", 60, {"num_labels": 1}),
        ("m1", 60, {"num_labels": 1}),
    ],
)
def test_few_data_points_are_reported(tmp_path, name, rows, options):
    """Fewer rows than principal components, components or classes."""
    data = pv.data.from_arrays(torch.randn(rows, 6), torch.arange(rows) % 3)
    method = pv.method(name, data, hidden=[8], latent_dim=2, epochs=1, **options)
    result = method.fit(progress=False).report(tmp_path / "report.html", num_samples=3)
    assert math.isfinite(result["elbo"]) and "Training" in (tmp_path / "report.html").read_text()


def test_names_with_dollar_signs_are_drawn_as_they_are(tmp_path):
    """matplotlib would take them for formulas, and `$x_$` for a broken one."""
    for name in ("$x_$", "a$", "plain"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(30):
            gray = np.random.default_rng(i).integers(0, 255, (4, 4), dtype=np.uint8)
            Image.fromarray(gray).save(tmp_path / "images" / name / f"{i}.png")
    options = {"hidden": [4], "epochs": 1, "latent_dim": 2, "compile": False}
    method = pv.method("m2", tmp_path / "images", num_labels=9, **options)
    run = method.fit(tmp_path / "run", progress=False)
    run.report(num_samples=2)
    assert "$x_$" in (tmp_path / "run" / "report.html").read_text()
    sheet = run.sheet("component", num=2)
    assert sheet.write(tmp_path / "samples", run.data)[-1].suffix == ".png"
    assert run.sheet("prior", num=2, y="$x_$").write(tmp_path / "one", run.data)


@pytest.mark.parametrize("name", ["gmvae", "m2", "vae"])
def test_dollar_signs_in_names_begin_no_formula(tmp_path, name):
    """Of columns, categories and classes; two of them had ended the report with matplotlib's error."""
    rng, spent, kinds = np.random.default_rng(0), "per_$_of_$x_1^{2", ["$1_to_$9", "$_{"]
    frame = {spent: rng.normal(size=60), "kind": kinds * 30, "class": ["$a_$b", "$c"] * 30}
    options = {"num_components": 2, "vaes": 1} if name == "gmvae" else {}
    data = pv.data.from_frame(frame, labels="class")
    run = pv.method(name, data, epochs=1, latent_dim=2, **options).fit(progress=False)
    run.report(tmp_path / "report.html", num_samples=2)
    page = (tmp_path / "report.html").read_text()
    names = [spent, *kinds, *["$a_$b"] * (name != "vae")]
    assert [written for written in names if written not in page] == []
    assert "could not be drawn" not in page


def test_new_data_are_no_evidence_of_what_training_did():
    """Rows of one class, of one component, and copies of one row are no fault of the pair."""
    result = {
        "split": "new", "data": 40, "elbo": -4.0, "terms": {"x": -3.0, "z": -1.0},
        "unit_activity": {"z": [0.0, 0.0]}, "units": {"z": 2}, "active_units": {"z": 0},
    }  # fmt: skip
    one = {**result, "occupancy": [1.0, 0.0]}
    own = {"split": "test"}
    assert findings.warnings(one) == []
    assert len(findings.warnings({**one, **own})) == 2  # constant means, and one component
    assert findings.headline(one).startswith("The new data are of 1 of 2 components. On the new")
    assert findings.headline({**one, **own}).startswith("1 of 2 components are in use. On the test")
    classes = {**one, "y_is_class": True}
    assert "component" not in findings.headline(classes)
    assert "component" not in " ".join(findings.warnings({**classes, **own}))
    assert findings.omissions({**classes, "data": 1}) == []


def test_a_run_with_labels_knows_that_y_is_a_class():
    x, y = torch.randn(60, 3), torch.arange(60) % 2
    run = pv.method("m2", pv.data.from_arrays(x, y), hidden=[8], epochs=1).fit(progress=False)
    for new in (x[:20], [x[:10], x[10:20]]):
        result = run.evaluate(data=new, num_samples=2)
        assert result["y_is_class"] and "component" not in str(result).split("\n\n")[0]
    assert "y_is_class" not in summarize(run.model, run.guide, run.data, num_samples=2)


def test_clusters_of_chance_are_said_to_be_such():
    result = {"split": "test", "terms": {"x": -3.0, "z": -1.0}, "unit_activity": {"z": [0.5]}}
    low, fair = {"stability": 0.03}, {"stability": 0.4}
    assert (
        "Another run would find other clusters" in findings.warnings({**result, "restarts": low})[0]
    )
    assert "stability 0.03" in findings.warnings({**result, "initialization": low})[0]
    for sources in ({"restarts": fair, "initialization": low}, {"initialization": fair}, {}):
        assert findings.warnings({**result, **sources}) == []
