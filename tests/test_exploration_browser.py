"""The pages to explore in a browser: Chromium without a window, driven by Selenium."""

import shutil
import time
from functools import partial

import pytest
import torch

import pyro_vae as pv
from pyro_vae.conditionals import MLP, Conv
from pyro_vae.data.display import shown_columns
from pyro_vae.exploration import explore_comparison, explore_pair
from pyro_vae.exploration.decoding import LatentSpace
from pyro_vae.exploration.pair import shown_context

pytest.importorskip("plotly", reason="the page needs Plotly")
webdriver = pytest.importorskip("selenium.webdriver", reason="drives the browser")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver (Debian: chromium-driver)"
)

NET = MLP((32,))
SEED = 3


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--window-size=1200,900",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    driver.set_script_timeout(60)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def digits():
    return pv.data.load("digits")


def pair(build, network=NET):
    """A model and its guide, whose encodings are spread over the plane."""
    torch.manual_seed(SEED)
    model = build()
    guide = pv.guides.Guide(model, network=network)
    with torch.no_grad():
        for parameter in (*model.parameters(), *guide.parameters()):
            parameter.mul_(2.0)
    return model, guide


def opened(browser, path):
    browser.get(f"file://{path}")
    wait(browser, "return window.explorer !== undefined && document.querySelector('.xtick')")
    return browser


def wait(browser, script, seconds=30):
    for _ in range(10 * seconds):
        if browser.execute_script(script):
            return
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds} seconds: {script}")


def pixels(browser, figure):
    """The gray values that a picture shows."""
    return torch.tensor(
        browser.execute_script(f"""
        const canvas = document.querySelector('#{figure} canvas');
        const {{ width, height }} = canvas;
        const data = canvas.getContext('2d').getImageData(0, 0, width, height).data;
        return Array.from(data).filter((_, i) => i % 4 === 0);
        """)
    )


def client_place(browser, a, b):
    """Where a place of the plane is in the window."""
    return browser.execute_script(f"""
        const plot = document.getElementById('plane'), corner = plot.getBoundingClientRect();
        const {{ xaxis, yaxis }} = plot._fullLayout;
        return [corner.left + xaxis._offset + xaxis.l2p({a}),
                corner.top + yaxis._offset + yaxis.l2p({b})];
    """)


def point_at(browser, a, b, then):
    """Move the mouse to a place of the plane, and `then(actions)`."""
    actions = webdriver.ActionChains(browser, duration=50)
    actions.w3c_actions.pointer_action.move_to_location(
        *(round(v) for v in client_place(browser, a, b))
    )
    then(actions)
    actions.perform()
    time.sleep(0.3)


def decoded(browser, units, condition=0):
    script = f"return Array.from(explorer.decode({units}, {condition}))"
    return torch.tensor(browser.execute_script(script), dtype=torch.float64)


def check_offline_and_silent(browser):
    """The page logged nothing and asked for nothing."""
    # of the source "rendering" is advice about `pixels`, which the tests call, not the page
    assert [e for e in browser.get_log("browser") if e["source"] != "rendering"] == []
    script = "return performance.getEntriesByType('resource').map((e) => e.name)"
    loaded = [n for n in browser.execute_script(script) if not n.startswith("data:")]
    assert loaded == []


# ------------------------------------------------------------------- a pair


@pytest.fixture(scope="module")
def vae(digits, tmp_path_factory):
    model, guide = pair(lambda: pv.models.VAE((1, 8, 8), 4, "binomial", NET))
    path = tmp_path_factory.mktemp("vae") / "explore.html"
    return model, guide, explore_pair(model, guide, digits, path)


def test_the_decoder_in_the_page_is_torchs(vae, browser):
    model, _, path = vae
    page = opened(browser, path)
    check_offline_and_silent(page)
    for z in 2 * torch.randn(5, 4):
        with torch.no_grad():
            exact = model.p_x(z=z).mean.flatten().double()
        assert (decoded(page, z.tolist()) - exact).abs().max() < 1e-5


def test_a_click_and_a_drag_decode_the_place(vae, browser):
    model, _, path = vae
    page = opened(browser, path)
    first, second = page.execute_script("return explorer.page.axes")
    before = pixels(page, "decoded")
    point_at(page, 1.0, -0.5, lambda actions: actions.click())
    clicked = pixels(page, "decoded")
    assert not torch.equal(before, clicked)
    units = torch.tensor(page.execute_script("return Array.from(explorer.state.units)"))
    assert units[[first, second]].tolist() == pytest.approx([1.0, -0.5], abs=0.05)
    assert (units != 0).sum() == 2  # the others are at 0
    with torch.no_grad():
        exact = 255 * model.p_x(z=units).mean.flatten()
    assert (clicked - exact).abs().max() <= 1
    marker = page.execute_script("""
        const { left, top, width } = document.querySelector('.place').getBoundingClientRect();
        return [left + width / 2, top + width / 2]""")
    assert marker == pytest.approx(client_place(page, 1.0, -0.5), abs=2)

    def drag(actions):
        actions.w3c_actions.pointer_action.click_and_hold()
        actions.w3c_actions.pointer_action.move_to_location(
            *(round(v) for v in client_place(page, -1.0, 1.0))
        )
        actions.w3c_actions.pointer_action.release()

    point_at(page, 1.0, -0.5, drag)
    place = page.execute_script("return Array.from(explorer.state.units)")
    assert [place[first], place[second]] == pytest.approx([-1.0, 1.0], abs=0.05)
    check_offline_and_silent(page)


def test_hover_shows_the_data_point_and_its_reconstruction(vae, digits, browser):
    model, guide, path = vae
    page = opened(browser, path)
    axes = page.execute_script("return explorer.page.axes")
    x = digits.observed_split("test").x
    codes = pv.evaluate.encode(model, guide, x)["z"][:, axes]
    distances = (codes.unsqueeze(0) - codes.unsqueeze(1)).norm(dim=-1)
    distances.fill_diagonal_(torch.inf)
    n = int(distances.amin(1).masked_fill(codes.norm(dim=-1) > 2, 0).argmax())  # alone in its place
    point_at(page, *codes[n].tolist(), lambda actions: None)
    wait(page, f"return explorer.state.datum === {n}", 5)
    assert (pixels(page, "datum") - 255 * x[n].flatten()).abs().max() <= 1
    reconstruction = pv.evaluate.reconstruct(model, guide, x[n : n + 1])
    assert (pixels(page, "reconstruction") - 255 * reconstruction.flatten()).abs().max() <= 1
    caption = page.execute_script("return document.querySelector('#datum figcaption').textContent")
    assert caption == f"data point {n}, label {int(digits.test.y[n])}"


def test_switches_sliders_and_colors_work(vae, browser):
    _, _, path = vae
    page = opened(browser, path)

    def names():
        return page.execute_script(
            "return document.getElementById('plane').data.map((t) => t.name)"
        )

    def click(selector):
        page.execute_script(f"document.querySelector(`{selector}`).click()")
        time.sleep(0.3)

    assert names().count("prior") == 2 and "aggregate posterior" not in names()
    assert sorted(names())[:10] == [str(k) for k in range(10)]  # the labels
    click("#prior")
    click("#aggregate")
    assert "prior" not in names() and names().count("aggregate posterior") == 2
    click("input[name=color][value='']")
    assert names().count("none") == 1 and "3" not in names()
    click("#encodings")
    assert "none" not in names()
    click("#tiles")
    wait(page, "return document.querySelector('#plane image') !== null", 10)
    before, unit = pixels(page, "decoded"), page.execute_script("return explorer.page.order[2]")
    page.execute_script(f"""
        const slider = document.getElementById('unit-{unit}');
        slider.value = 2;
        slider.dispatchEvent(new Event('input'));""")
    assert page.execute_script(f"return explorer.state.units[{unit}]") == 2
    assert not torch.equal(before, pixels(page, "decoded"))
    page.execute_script("document.getElementById('zero').click()")
    assert torch.equal(before, pixels(page, "decoded"))
    check_offline_and_silent(page)


def test_the_page_fits_a_phone_and_follows_the_color_scheme(vae, browser):
    _, _, path = vae
    backgrounds = []
    try:
        for scheme in ("light", "dark"):
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
            browser.execute_cdp_cmd(
                "Emulation.setDeviceMetricsOverride",
                {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True},
            )
            page = opened(browser, path)
            backgrounds.append(
                page.execute_script("return getComputedStyle(document.body).backgroundColor")
            )
            wide = page.execute_script("return document.documentElement.scrollWidth")
            assert wide <= 390
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert backgrounds == ["rgb(255, 255, 255)", "rgb(23, 25, 29)"]


# ------------------------------------------------------------------- other models


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["labels", "quadrants", "m2", "auxiliary"])
def test_the_condition_is_chosen_by_a_switch(kind, digits, browser, tmp_path):
    """The picture at a condition is that of the model; covariates in it stay where they are."""
    if kind == "labels":
        data = digits.with_condition(pv.data.Labels(10))
        build = partial(pv.models.CVAE, (1, 8, 8), (10,), 3, "binomial", NET, c_is_class=True)
    elif kind == "quadrants":
        data = digits.with_condition(pv.data.Quadrants(2, (1, 8, 8)))
        build = partial(pv.models.CVAE, data.x_shape, data.c_shape, 3, "binomial", NET)
    elif kind == "m2":
        data, build = digits, partial(pv.models.M2, (1, 8, 8), 10, 3, "binomial", NET)
    else:
        data = digits
        build = partial(
            pv.models.AuxiliaryDGM, (1, 8, 8), 10, 3, likelihood="binomial", network=NET
        )
    model, guide = pair(build)
    page = opened(browser, explore_pair(model, guide, data, tmp_path / "page.html", num_data=50))
    space = LatentSpace(shown_context(model, guide, data, num_data=50))
    units = torch.randn(space.codes.shape[1])
    for condition in (0, 7):
        exact = space.decode(units.unsqueeze(0), condition)[0].double()
        assert (decoded(page, units.tolist(), condition) - exact).abs().max() < 1e-5
    before = pixels(page, "decoded")
    page.execute_script("""
        const choice = document.getElementById('condition');
        choice.value = 7;
        choice.dispatchEvent(new Event('input'));""")
    assert not torch.equal(before, pixels(page, "decoded"))
    check_offline_and_silent(page)


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", ["poisson", "continuous-bernoulli", "normal"])
def test_tables_are_shown_as_a_chart(likelihood, browser, tmp_path):
    x = torch.rand(80, 5)
    x = {"poisson": (10 * x).round(), "normal": 10 * x}.get(likelihood, x)
    data = pv.data.from_arrays(x, likelihood=likelihood)
    if likelihood == "normal":
        data = pv.data.standardize(data)
    activation = {"poisson": "tanh", "continuous-bernoulli": "silu", "normal": "elu"}[likelihood]
    network = MLP((16, 8), activation)
    model, guide = pair(lambda: pv.models.VAE((5,), 2, likelihood, network), network)
    page = opened(browser, explore_pair(model, guide, data, tmp_path / "page.html"))
    z = torch.tensor([0.7, -1.1])
    with torch.no_grad():
        exact = data.unstandardize(model.p_x(z=z.unsqueeze(0)).mean)[0].double()
    assert torch.allclose(decoded(page, z.tolist()), exact, rtol=1e-5, atol=1e-5)
    page.execute_script("explorer.moveTo([0.7, -1.1]); explorer.showDatum(2)")
    bars = page.execute_script("return document.getElementById('chart').data.map((t) => [...t.y])")
    assert len(bars) == 3
    columns = shown_columns(data)
    if columns.mean is not None:  # not of counts, nor between 0 and 1
        exact = (exact - columns.mean) / columns.sd
    assert (columns.mean is None) == (likelihood != "normal")
    assert torch.allclose(torch.tensor(bars[0]).double(), exact, rtol=1e-4, atol=1e-4)
    check_offline_and_silent(page)


@pytest.mark.slow
def test_a_convolutional_decoder_is_interpolated_and_the_page_says_so(digits, browser, tmp_path):
    network = Conv((4, 8), (16,))
    build = partial(pv.models.VAE, (1, 8, 8), 2, "binomial", network)
    model, guide = pair(build, network)
    path = explore_pair(model, guide, digits, tmp_path / "page.html", num_data=50)
    page = opened(browser, path)
    decoder = page.execute_script("const { images, ...grid } = explorer.page.decoder; return grid")
    low, high, num = (decoder[n] for n in ("low", "high", "num"))
    nodes = [[lo + (hi - lo) * i / (num - 1) for lo, hi in zip(low, high, strict=True)]
             for i in (0, 7, num - 1)]  # fmt: skip
    for z in nodes:
        with torch.no_grad():
            exact = model.p_x(z=torch.tensor(z)).mean.flatten()
        assert (decoded(page, z) - exact).abs().max() < 0.6 / 255
    step = [(hi - lo) / (num - 1) for lo, hi in zip(low, high, strict=True)]
    corners = [decoded(page, [nodes[1][0] + i * step[0], nodes[1][1] + j * step[1]])
               for i in (0, 1) for j in (0, 1)]  # fmt: skip
    middle = decoded(page, [nodes[1][0] + step[0] / 2, nodes[1][1] + step[1] / 2])
    assert torch.allclose(middle, torch.stack(corners).mean(0), atol=1e-6)
    note = page.execute_script("return document.querySelector('.note').textContent")
    assert f"a grid of {num} × {num} places" in note
    before = pixels(page, "decoded")
    point_at(page, 1.0, -0.5, lambda actions: actions.click())
    assert not torch.equal(before, pixels(page, "decoded"))
    check_offline_and_silent(page)


# ------------------------------------------------------------------- a comparison


@pytest.mark.slow
def test_a_comparison_shows_one_guide_at_a_time_on_the_true_posterior(digits, browser, tmp_path):
    model, _ = pair(lambda: pv.models.VAE((1, 8, 8), 2, "binomial", NET))
    guides = {"learned": partial(pv.guides.Guide, network=NET),
              "constant": partial(pv.guides.Guide, network=NET, given={"z": []})}  # fmt: skip
    result = pv.compare(
        model, guides, digits, seeds=1, epochs=1, share_model=True, num_samples=10, num_gap_data=10,
        gap_options={"max_steps": 50, "annealing": False}, compile=False, progress=False,
        out=tmp_path,
    )  # fmt: skip
    page = opened(browser, explore_comparison(tmp_path))
    x = digits.observed_split("test").x
    exact = pv.diagnostics.posterior_grid(model, x[:10]).log_likelihood
    for guide, datum in ((0, 0), (1, 4)):
        page.execute_script(f"explorer.choose({{ guide: {guide}, datum: {datum} }})")
        text = page.execute_script("return document.getElementById('numbers').textContent")
        numbers = [float(part.split()[-2 if "nats" in part else -1]) for part in text.split(" · ")]
        gaps = [float(result.per_datum[guide][n][datum]) for n in ("approximation", "amortization")]
        assert numbers[0] == pytest.approx(float(exact[datum]), abs=0.05)  # grids of 60 and 100
        assert numbers[1:] == pytest.approx(gaps, abs=0.0006)
        assert (pixels(page, "datum") - 255 * x[datum].flatten()).abs().max() <= 1
        names = page.execute_script(
            "return document.getElementById('plane').data.map((t) => t.name)"
        )
        assert names == ["true posterior", "guide", "guide", "guide"]
    before = pixels(page, "decoded")
    low, high = page.execute_script(
        "return document.getElementById('plane')._fullLayout.xaxis.range"
    )
    bottom, top = page.execute_script(
        "return document.getElementById('plane')._fullLayout.yaxis.range"
    )
    place = low + 0.25 * (high - low), bottom + 0.25 * (top - bottom)
    point_at(page, *place, lambda actions: actions.click())
    z = torch.tensor(page.execute_script("return explorer.state.place"))
    assert z.tolist() == pytest.approx(list(place), abs=0.01 * (high - low))
    with torch.no_grad():
        mean = model.p_x(z=z).mean.flatten()
    clicked = pixels(page, "decoded")
    assert not torch.equal(before, clicked)
    assert (clicked - 255 * mean).abs().max() <= 1
    assert (decoded(page, z.tolist(), 0) - mean).abs().max() < 1e-5
    page.execute_script("document.getElementById('guide').click()")
    names = page.execute_script("return document.getElementById('plane').data.map((t) => t.name)")
    assert names == ["true posterior"]
    check_offline_and_silent(page)
