"""Numbers printed in README and docs are those of the result files in benchmarks/results."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NUMBER = r"[−-]?\d+(?:\.\d+)?"


def result(name):
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def means_and_deviations(value):
    """Every `{"mean": ..., "sd": ...}` within a result, and every mean with its standard error."""
    if isinstance(value, list):
        for item in value:
            yield from means_and_deviations(item)
    elif isinstance(value, dict):
        if set(value) in ({"mean", "sd"}, {"mean", "standard_error"}):
            yield value["mean"], value.get("sd", value.get("standard_error"))
        for item in value.values():
            yield from means_and_deviations(item)


def rounds_to(value, printed):
    """Whether a value is printed so, up to its sign."""
    decimals = len(printed.partition(".")[2])
    return abs(abs(value) - abs(number(printed))) <= 0.5001 * 10**-decimals


def number(printed):
    return float(printed.replace("−", "-"))


FENCE = re.compile(r"^```.*?^```$", re.M | re.S)
ALL = [
    pair
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    for pair in means_and_deviations(json.loads(path.read_text()))
]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_printed_mean_and_deviation_is_in_a_result_file(path):
    text = FENCE.sub("", path.read_text())  # what a program printed is below the program
    for mean, sd in re.findall(rf"({NUMBER}) ± ({NUMBER})", text):
        assert any(rounds_to(m, mean) and rounds_to(s, sd) for m, s in ALL), f"{mean} ± {sd}"


def test_a_wrong_number_is_noticed():
    assert not any(rounds_to(m, "0.646") and rounds_to(s, "0.035") for m, s in ALL)
    assert any(rounds_to(m, "0.635") and rounds_to(s, "0.035") for m, s in ALL)


def test_clustering_tables_have_accuracy_nmi_and_ari_of_their_rows():
    table = result("clustering_digits")["table"]
    text = (ROOT / "docs" / "results.md").read_text()
    for label, name in (
        ("GMVAE", "this model"), ("k-means", "k-means"), ("Ward", "Ward"),
        ("Gaussian mixture", "Gaussian mixture"),
    ):  # fmt: skip
        (row,) = re.findall(rf"^\| \**{label}.*$", text, re.M)
        printed = [re.findall(NUMBER, cell)[0] for cell in row.split("|")[2:5]]
        for metric, value in zip(("accuracy", "nmi", "ari"), printed, strict=True):
            assert rounds_to(table[f"{metric}, {name}"]["mean"], value), (label, metric)
    mnist = result("clustering_mnist")["table"]
    paragraph = " ".join(re.search(r"MNIST, five seeds.*?\n\n", text, re.S)[0].split())
    for pattern, name in (
        (rf"accuracy ({NUMBER})", "this model"),
        (rf"k-means ({NUMBER})", "k-means"),
        (rf"Gaussian mixture ({NUMBER})", "Gaussian mixture"),
    ):
        printed = re.search(pattern, paragraph)[1]
        assert rounds_to(mnist[f"accuracy, {name}"]["mean"], printed), name


def test_range_of_clustering_runs():
    runs = result("clustering_digits")["runs"]
    accuracies = [run["clustering"]["this model"]["accuracy"] for run in runs]
    for page in ("results", "questions"):
        text = " ".join((ROOT / "docs" / f"{page}.md").read_text().split())
        low, high = re.search(rf"Runs lie between ({NUMBER}) and ({NUMBER})", text).groups()
        assert rounds_to(min(accuracies), low) and rounds_to(max(accuracies), high)


def test_step_times_are_the_ratios_to_the_hand_written_step():
    steps = result("speed")["rows"]
    rows = {(r["way"], r["workload"], r["batch"]): r.get("ratio_to_eager") for r in steps}
    ways = {
        "`pyro.infer.SVI`": "pyro SVI",
        "pythae's VAE": "pythae",
        "this library, `compile=False`": "pyro_vae, plain",
        "hand-written, `torch.compile`": "hand-written, torch.compile",
        'this library, `compile="recorded"`': "pyro_vae, recorded",
        "NumPyro's SVI": "NumPyro SVI, scan",
        "JAX by hand": "JAX by hand, scan",
        "this library, `compile=True`": "pyro_vae, Inductor",
        "the step's matrix products": "products",
    }
    text = (ROOT / "docs" / "performance.md").read_text().split("On a GPU")[0]
    for label, way in ways.items():
        line = re.search(rf"^\| {re.escape(label)}.*$", text, re.M)[
            0
        ]  # the first table is the CPU's
        cells = line.replace("*", "").split("|")[2:5]
        for workload, cell in zip(("vae", "gmvae", "m2"), cells, strict=True):
            for batch, printed in zip((128, 512), re.findall(NUMBER, cell), strict=False):
                assert rounds_to(rows[way, workload, batch], printed), (label, workload, batch)
    compiled = [r for r in steps if r["way"] == "pyro_vae, Inductor"]
    for name, other in (("numpyro", "NumPyro's SVI"), ("products", "the matrix products")):
        pattern = rf"((?:{NUMBER}[ /,and]+)+)of the time of {other}"
        printed = re.findall(NUMBER, re.search(pattern, " ".join(text.split()))[1])
        for row, number in zip(compiled, printed, strict=True):
            assert rounds_to(row[f"ratio_to_{name}"], number), (row["workload"], row["batch"])
    (line,) = re.findall(r"^\| a training step, VAE, batch 128.*$", PAGES[0].read_text(), re.M)
    ours, svi = [re.findall(r"\d\.\d+", cell)[0] for cell in line.split("|")[2:4]]
    assert rounds_to(rows["pyro_vae, Inductor", "vae", 128], ours)
    assert rounds_to(rows["pyro SVI", "vae", 128], svi)


def test_closed_form_kl_ratios():
    rows = {row["method"]: row for row in result("kl")["rows"]}
    text = " ".join((ROOT / "docs" / "objectives.md").read_text().split())
    times = re.search(
        rf"then take ({NUMBER}) \(VAE\), ({NUMBER}) \(M2\), ({NUMBER}) \(two", text
    ).groups()
    variances = re.search(rf"has ({NUMBER}), ({NUMBER}), ({NUMBER}) of its variance", text).groups()
    for name, time, variance in zip(
        ("vae", "m2", "hierarchical-vae"), times, variances, strict=True
    ):
        assert rounds_to(rows[name]["time, analytic / sampled"]["mean"], time), name
        trained = [
            rows[name][f"variance, trained, {kind}"]["mean"] for kind in ("sampled", "analytic")
        ]
        assert any(rounds_to(value, variance) for value in trained), name


def test_importance_weighted_errors_of_the_linear_gaussian_model():
    rows = {(r["guide"], r["num_samples"]): r for r in result("linear_gaussian")["rows"]}
    text = " ".join((ROOT / "docs" / "diagnostics.md").read_text().split())
    printed = re.search(rf"error is ({NUMBER}), ({NUMBER}), ({NUMBER}) nats", text).groups()
    for size, value in zip((10, 100, 1000), printed, strict=True):
        assert rounds_to(rows["perturbed", size]["mean_error"], value)
    assert all(r["largest_error"] < 1e-13 for k, r in rows.items() if k[0] == "exact posterior")


def test_growth_with_the_number_of_components():
    ms = {
        (r["model"], r["value"]): r["ms"]
        for r in result("scaling")["rows"]
        if r["curve"] == "components"
    }
    text = " ".join((ROOT / "docs" / "performance.md").read_text().split())
    vade, gmvae = re.search(
        rf"VaDE's model ({NUMBER}) times as long, the GMVAE's ({NUMBER})", text
    ).groups()
    m2 = re.search(rf"takes ({NUMBER}) times as long", text)[1]
    for model, printed in (("mixture-vae", vade), ("gmvae", gmvae), ("m2", m2)):
        assert rounds_to(ms[model, 100] / ms[model, 10], printed), model


def test_step_ratios_on_the_other_processor():
    steps = result("speed_epyc")["rows"]
    text = (ROOT / "docs" / "performance.md").read_text()
    compiled, numpyro = "pyro_vae, Inductor", "NumPyro SVI, scan"
    for label, way, name in (
        ("compiled step ÷ NumPyro's SVI", compiled, "numpyro"),
        ("compiled step ÷ the products", compiled, "products"),
        ("compiled step ÷ products and Adam", compiled, "floor"),
        ("NumPyro's SVI ÷ products and Adam", numpyro, "floor"),
    ):
        rows = {(r["workload"], r["batch"]): r for r in steps if r["way"] == way}
        (line,) = re.findall(rf"^\| {label} \|.*$", text, re.M)
        for workload, cell in zip(("vae", "gmvae", "m2"), line.split("|")[2:5], strict=True):
            for batch, printed in zip((128, 512), re.findall(NUMBER, cell), strict=True):
                value = rows[workload, batch][f"ratio_to_{name}"]
                assert rounds_to(value, printed), (label, workload, batch)


def test_full_covariance_ratios():
    rows = {(*r["shape"], r["what"]): r["ratio"] for r in result("full_covariance")["rows"]}
    text = " ".join((ROOT / "docs" / "performance.md").read_text().split())
    printed = re.search(
        rf"the density with its gradients takes ({NUMBER}) of the time of torch's for 10 components.*? "
        rf"({NUMBER}) in 512 dimensions; a draw and its density ({NUMBER}) and ({NUMBER})",
        text,
    ).groups()
    keys = [(10, 128, 24), (64, 512)]
    expected = [rows[*key, what] for what in ("log_prob", "draw") for key in keys]
    for value, number_ in zip(expected, printed, strict=True):
        assert rounds_to(value, number_)
    (components, *_) = result("full_covariance")["rows"]
    shared = re.search(rf"share their correlations.*? takes ({NUMBER}) of that", text)[1]
    assert (*components["shape"], components["what"]) == (10, 128, 24, "log_prob")
    assert rounds_to(components["constant ratio"], shared)


def test_latents_of_small_tables():
    table, page = (
        result("table_latents")["table"],
        (ROOT / "docs" / "data_and_likelihoods.md").read_text(),
    )
    for name in ("iris", "wine", "breast cancer"):
        for method in ("vade", "gmvae"):
            (line,) = re.findall(rf"^\| {name}, `{method}` \|.*$", page, re.M)
            for size, cell in zip(("two", "half", "24"), line.split("|")[2:5], strict=True):
                for metric, printed in zip(
                    ("log_likelihood", "stability"), cell.split(";"), strict=True
                ):
                    value = table[f"{name}, {method}, {size}, {metric}"]
                    mean, sd = printed.replace("−", "-").split("±")
                    assert rounds_to(value["mean"], mean.strip()), (name, method, size, metric)
                    assert rounds_to(value["sd"], sd.strip()), (name, method, size, metric)
