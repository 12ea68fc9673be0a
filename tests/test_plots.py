"""What plots show: order, ticks, outlines and projections; not pixels."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Circle

import pyro_vae as pv
from pyro_vae import plots
from pyro_vae.generate.paths import Traversal
from pyro_vae.programs.dependencies import dependencies_of


def ticks(axis):
    return [tick.get_text() for tick in axis.get_ticklabels()]


def cells(ax):
    """`{(row, column): number}` of a table."""
    return {
        (math.floor(t.get_position()[1]), math.floor(t.get_position()[0])): int(t.get_text())
        for t in ax.texts
    }


def segments(ax):
    (lines,) = ax.collections
    return np.array(lines.get_segments())


# ------------------------------------------------------------------- components and classes


def test_a_permuted_clustering_has_its_matches_on_the_diagonal():
    labels = torch.arange(100) % 10
    permutation = torch.randperm(10)
    clusters = permutation[labels]
    clusters[:7] = permutation[3]  # a few errors
    order = plots.component_order(labels, clusters, 10)
    assert order.tolist() == permutation.tolist()
    _, ax = plots.axes()
    plots.contingency(ax, labels, clusters, 10)
    actual = cells(ax)
    assert ticks(ax.yaxis) == [str(i) for i in permutation.tolist()]
    assert all(actual[i, i] >= 9 for i in range(10)) and sum(actual.values()) == 100


def test_components_beyond_the_labels_follow_the_label_that_most_of_their_data_have():
    labels = [0] * 6 + [1] * 6
    clusters = [4, 4, 4, 4, 2, 2, 0, 0, 0, 0, 0, 3]  # component 1 is empty
    assert plots.component_order(labels, clusters, 5).tolist() == [4, 2, 0, 3, 1]


def test_fewer_components_than_labels_keep_the_order_of_the_labels():
    labels, clusters = [0, 0, 1, 1, 1, 2, 2], [1, 1, 1, 1, 1, 0, 0]
    assert plots.component_order(labels, clusters, 2).tolist() == [1, 0]


def test_unlabeled_data_are_not_counted():
    _, ax = plots.axes()
    plots.contingency(ax, [0, -1, 1], [0, 0, 1], 2)
    assert cells(ax) == {(0, 0): 1, (1, 1): 1}


def test_rows_of_a_confusion_matrix_are_true_classes():
    _, ax = plots.axes()
    plots.confusion(ax, [0, 0, 0, 1], [1, 1, 0, 1], 2)
    assert cells(ax) == {(0, 0): 1, (0, 1): 2, (1, 1): 1}
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted class", "true class")
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # row 0 is on top


def test_bars_of_the_occupancy_have_one_color_and_the_order_that_is_passed():
    _, ax = plots.axes()
    plots.occupancy(ax, [0.5, 0.2, 0.3], order=[2, 0, 1])
    assert [bar.get_height() for bar in ax.patches] == [0.3, 0.5, 0.2]
    assert len({bar.get_facecolor() for bar in ax.patches}) == 1


# ------------------------------------------------------------------- images


def test_gaps_between_images_are_transparent():
    _, ax = plots.axes()
    plots.images(ax, torch.ones(4, 8, 8), columns=2)
    canvas = ax.images[0].get_array()
    assert canvas.shape == (17, 17, 4)
    assert (canvas[8] == 0).all() and (canvas[:, 8] == 0).all() and canvas[:8, :8].min() == 1


def test_an_outline_is_the_boundary_of_its_mask():
    _, ax = plots.axes()
    plots.images(ax, torch.rand(2, 1, 8, 8), columns=2)
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[1, 4:, :4] = True  # the lower left quadrant of the second
    plots.outline(ax, masks, columns=2)
    ends = segments(ax).reshape(-1, 2)
    assert len(ends) == 2 * 16  # its perimeter in pixels
    assert ends.min(0).tolist() == [8.5, 3.5] and ends.max(0).tolist() == [12.5, 7.5]


def test_a_traversal_has_the_values_of_its_units_and_a_framed_center():
    values = torch.stack([torch.linspace(-2.5, 2.5, 5), torch.linspace(-4.0, 6.0, 5)])
    actual = Traversal(torch.rand(2, 5, 1, 8, 8), torch.tensor([7, 3]), torch.ones(2), values)
    figure, ax = plots.axes()
    plots.traversal(ax, actual, span=2.5)
    assert ticks(ax.xaxis) == ["-2.5", "-1.25", "0", "1.25", "2.5"]
    assert ticks(ax.yaxis) == ["unit 7", "unit 3"]
    (right,) = ax.child_axes
    assert ticks(right.yaxis) == ["-2.5 to 2.5", "-4.0 to 6.0"]
    x = segments(ax)[..., 0]
    assert (x.min(), x.max()) == (17.5, 25.5)  # the third column of images of 8 pixels and a gap


def test_a_traversal_of_even_length_has_no_center_to_frame():
    values = torch.linspace(-2.5, 2.5, 4).expand(1, 4)
    _, ax = plots.axes()
    actual = Traversal(torch.rand(1, 4, 8, 8), torch.tensor([0]), torch.ones(1), values)
    assert not plots.traversal(ax, actual).collections


def test_the_ends_of_an_interpolation_are_framed():
    _, ax = plots.axes()
    plots.interpolations(ax, torch.rand(2, 3, 8, 8))
    x = segments(ax)[..., 0]
    assert set(x[(x > 7.5) & (x < 17.5)]) == set()  # nothing in the middle
    assert ticks(ax.xaxis) == ["0", "0.5", "1"]


@pytest.mark.parametrize("steps", [3, 4, 5, 9])
def test_the_ticks_of_paths_show_their_values(steps):
    """A tick differs from its value by less than half of a thousandth."""
    _, ax = plots.axes()
    plots.interpolations(ax, torch.rand(1, steps, 8, 8))
    np.testing.assert_allclose(
        [float(t) for t in ticks(ax.xaxis)], np.linspace(0, 1, steps), atol=5e-4
    )
    values = torch.linspace(-2.5, 2.5, steps).expand(1, steps)
    _, ax = plots.axes()
    path = Traversal(torch.rand(1, steps, 8, 8), torch.tensor([0]), torch.ones(1), values)
    plots.traversal(ax, path)
    np.testing.assert_allclose([float(t) for t in ticks(ax.xaxis)], values[0], atol=5e-4)


def test_a_single_validated_epoch_is_a_point():
    history = [{"epoch": e, "loss": 9.0 - e} for e in (1, 2, 3)]
    history[-1]["elbo"] = -6.5
    _, ax = plots.axes()
    plots.curves(ax, history)
    loss, bound = ax.lines
    assert loss.get_marker() == "None" and bound.get_marker() == "o"
    _, ax = plots.axes()
    plots.curves(ax, history[:1])
    assert ax.lines[0].get_marker() == "o"


def test_only_losses_of_the_first_tenth_of_the_epochs_are_cut_off():
    short = [7.84, 7.80, 7.93, 7.90, 7.87]
    for losses, largest in ((short, 7.93), ([900.0, *short * 4, 8.5], 8.5)):
        _, ax = plots.axes()
        plots.curves(ax, [{"epoch": e, "loss": loss} for e, loss in enumerate(losses, 1)])
        low, high = ax.get_ylim()
        assert low < 7.80 and largest < high < 9


# ------------------------------------------------------------------- latents


def test_two_units_are_shown_as_they_are():
    codes = torch.randn(30, 2)
    view = plots.project(codes, "w")
    np.testing.assert_allclose(view.points, codes)
    assert view.labels == ("unit 0 of w", "unit 1 of w")


def test_more_units_are_shown_in_the_directions_of_the_largest_variance():
    codes = np.random.default_rng(0).normal(size=(400, 5)) * [1.0, 5.0, 0.1, 3.0, 0.5]
    view = plots.project(codes)
    variances = np.linalg.eigvalsh(np.cov(codes.T))[::-1]
    np.testing.assert_allclose(view.points.var(0, ddof=1), variances[:2], rtol=1e-6)
    np.testing.assert_allclose(view(codes), view.points, atol=1e-9)
    covariance = view.covariance(np.cov(codes.T)[None])[0]
    np.testing.assert_allclose(covariance, np.diag(variances[:2]), atol=1e-6)
    assert f"({100 * variances[0] / variances.sum():.0f} % of the variance)" in view.labels[0]


@pytest.mark.parametrize("shape", [(1, 4), (2, 3), (5, 1), (3, 2)])
def test_few_codes_are_projected_too(shape):
    assert np.isfinite(plots.project(torch.randn(shape)).points).all()


def test_an_ellipse_contains_its_mass_of_a_normal():
    covariance = np.array([[2.0, 1.2], [1.2, 1.0]])
    _, ax = plots.axes()
    plots.ellipses(ax, np.ones((1, 2)), covariance[None], num_sd=(-2 * np.log(0.1)) ** 0.5)
    (shape,) = ax.patches
    draws = np.random.default_rng(0).multivariate_normal([1, 1], covariance, 20_000)
    inside = shape.contains_points(ax.transData.transform(draws)).mean()
    assert inside == pytest.approx(0.9, abs=0.01)  # four standard errors are 0.0085


def test_units_are_sorted_by_their_kl_and_inactive_ones_are_gray():
    _, ax = plots.axes()
    plots.unit_kl(ax, torch.tensor([0.01, 3.0, 1.0]), torch.tensor([False, True, True]))
    assert ticks(ax.xaxis) == ["1", "2", "0"]
    colors = [to_hex(bar.get_facecolor()) for bar in ax.patches]
    assert colors == [plots.BLUE, plots.BLUE, plots.GREY]


def test_the_threshold_of_active_units_is_drawn():
    _, ax = plots.axes()
    plots.unit_activity(ax, torch.tensor([0.5, 0.0, 0.02]), threshold=0.01)
    (line,) = ax.lines
    assert line.get_ydata()[0] == 0.01 and ticks(ax.xaxis) == ["0", "2", "1"]
    colors = [to_hex(bar.get_facecolor()) for bar in ax.patches]
    assert colors == [plots.BLUE, plots.BLUE, plots.GREY]


def test_groups_are_named_at_their_centers_and_names_do_not_cover_each_other():
    points = torch.cat([torch.zeros(5, 2), torch.zeros(5, 2), torch.ones(5, 2)])
    groups = torch.tensor([0] * 5 + [1] * 5 + [2] * 5)
    groups[0] = -1
    _, ax = plots.axes()
    plots.scatter(ax, points, groups, axis_labels=("first", "second"))
    assert [t.get_text() for t in ax.texts] == ["0", "1", "2"]
    a, b, c = (np.array(t.xy) for t in ax.texts)
    assert np.linalg.norm(a - b) >= 0.05 and np.linalg.norm(a) < 0.1
    np.testing.assert_allclose(c, 1)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("first", "second")


def test_ten_groups_have_ten_colors_and_the_next_ten_other_markers():
    colors = plots.palette(20)
    assert len({to_hex(colors(i)) for i in range(10)}) == 10
    assert to_hex(colors(3)) == to_hex(colors(13))
    _, ax = plots.axes()
    plots.scatter(ax, torch.randn(12, 2), torch.arange(12))
    shapes = [part.get_paths()[0].vertices.shape for part in ax.collections]
    assert shapes[0] == shapes[9] != shapes[10]


# ------------------------------------------------------------------- columns


def test_a_column_is_shown_as_fractions_of_its_observed_values():
    nan = math.nan
    _, ax = plots.axes()
    plots.column(ax, [1.0, 2.0, 2.0, nan], [0.0, 2.0], "count")
    heights = [bar.get_height() for bar in ax.patches]
    np.testing.assert_allclose(heights, [0, 1 / 3, 2 / 3, 0.5, 0, 0.5])
    assert ticks(ax.xaxis) == ["0", "1", "2"]
    _, ax = plots.axes()
    data, draws = torch.randn(500), 100 + torch.randn(500)
    plots.column(ax, torch.cat([data, torch.tensor([nan, 1e9])]), draws)
    histograms = [patch.get_data() for patch in ax.patches]
    assert (histograms[0].edges == histograms[1].edges).all() and histograms[0].edges[-1] < 110
    for histogram, mean in zip(histograms, (0, 100), strict=True):
        centers = (histogram.edges[1:] + histogram.edges[:-1]) / 2
        assert histogram.values.sum() == pytest.approx(1)
        assert (histogram.values * centers).sum() == pytest.approx(mean, abs=4)


@pytest.mark.parametrize("kind", ["real", "count", "binary", "boolean", "category"])
@pytest.mark.parametrize("data", [[], [math.nan], [1.0]])
def test_a_column_of_no_or_one_value_is_drawn(kind, data):
    figure, ax = plots.axes()
    plots.column(ax, data, [1.0, 1.0], kind, ["a", "b"] if kind == "category" else None)
    figure.draw_without_rendering()


def test_classes_and_labels_have_their_names():
    _, ax = plots.axes()
    plots.confusion(ax, [0, 0, 1], [0, 1, 1], 2, ["no", "yes"])
    assert ticks(ax.xaxis) == ticks(ax.yaxis) == ["no", "yes"]
    _, ax = plots.axes()
    plots.contingency(ax, [0, 0, 1], [1, 1, 0], 2, names=["a", "b", "a name that is too long"])
    assert ticks(ax.xaxis) == ["a", "b", "a name that is \N{HORIZONTAL ELLIPSIS}"]


# ------------------------------------------------------------------- graphs


@pytest.mark.parametrize(
    "parents",
    [
        {"z": ["c"], "x": ["z", "c"]},  # CVAE: c -> x passes z
        {"a": ["x"], "y": ["a", "x"], "z": ["a", "x", "y"]},
        {"y": [], "z": [], "a": ["y", "z"], "x": ["a", "y", "z"]},
    ],
)
def test_arrows_of_a_graph_go_around_the_circles_between_their_ends(parents):
    figure, ax = plots.axes()
    plots.graph(ax, parents)
    figure.draw_without_rendering()
    circles = [p for p in ax.patches if isinstance(p, Circle)]
    arrows = [t.arrow_patch for t in ax.texts if getattr(t, "arrow_patch", None) is not None]
    assert len(arrows) == sum(map(len, parents.values()))
    to_data = ax.transData.inverted()
    for arrow in arrows:
        (line, *_), _ = arrow._get_path_in_displaycoord()
        corners = np.concatenate(line.to_polygons(closed_only=False))
        steps = np.linspace(0, 1, 20)[:, None, None]
        points = to_data.transform((corners[:-1] + steps * np.diff(corners, axis=0)).reshape(-1, 2))
        inside = [
            (np.hypot(*(points - circle.center).T) < 0.9 * circle.radius).any()
            for circle in circles
        ]
        assert not any(inside)


@pytest.mark.parametrize("panels", [1, 2, 3])
def test_gaps_in_panels_with_one_axis_have_the_first_guide_on_top(panels):
    rows = [
        {"guide": name, "approximation": (0.1, 0.0), "amortization": (0.2, 0.0)} for name in "ab"
    ]
    axes = Figure().subplots(1, panels, sharey=True, squeeze=False)
    for ax in axes.flat:
        plots.gaps(ax, rows)
    assert axes[0, 0].yaxis_inverted()


def drawn(program, **options):
    """`(names in circles, number of arrows)` of a graph."""
    _, ax = pv.plots.axes()
    pv.plots.graph(ax, program, plate=None, **options)
    names = [t.get_text().strip("$") for t in ax.texts if t.get_text()]
    return names, sum(not t.get_text() for t in ax.texts)


def chain(x, c):
    with pyro.plate("data", len(x)):
        w = pyro.sample("w", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
        mean = pyro.deterministic("mean", 2 * w)
        z = pyro.sample("z", dist.Normal(mean, 1.0).to_event(1))
        pyro.sample("obs", dist.Normal(z.sum(-1, keepdim=True) + c, 1.0).to_event(1), obs=x)


def chain_guide(x, c):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(x.expand(-1, 2), 1.0).to_event(1))
        pyro.sample("w", dist.Normal(z, 1.0).to_event(1))


def test_the_graph_of_a_program_is_read_off_one_run():
    example = {"x": torch.randn(3, 1), "c": torch.randn(3, 1)}
    assert dependencies_of(chain, example) == (
        {"w": (), "z": ("w",), "obs": ("c", "z")}, ("obs",),
    )  # fmt: skip
    assert dependencies_of(chain_guide, example).parents == {"z": ("x",), "w": ("z",)}
    assert drawn(chain, example=example) == (["c", "w", "z", "obs"], 3)
    with pytest.raises(pv.UserError, match="pass example="):
        drawn(chain)


@pytest.mark.parametrize(
    "method, parents",
    [
        ("gmvae", {"w": (), "y": (), "z": ("w", "y"), "x": ("z",)}),
        ("m1-m2", {"y": (), "z2": (), "z1": ("y", "z2"), "x": ("z1",)}),
        ("skip-dgm", {"y": (), "z": (), "a": ("y", "z"), "x": ("y", "z", "a")}),
        ("cvae", {"z": ("c",), "x": ("c", "z")}),
        ("relaxed-cvae", {"z": (), "x": ("c", "z")}),
    ],
)
def test_the_graphs_of_methods_are_those_of_their_papers(method, parents):
    model = pv.method(method, "digits", epochs=1).model
    found = dependencies_of(model).parents
    assert {name: set(above) for name, above in found.items()} == {
        name: set(above) for name, above in parents.items()
    }


@pytest.mark.parametrize(
    "draw, message",
    [
        (lambda ax: plots.scatter(ax, torch.randn(10, 5)), r"points has shape \[10, 5\].*project"),
        (lambda ax: plots.ellipses(ax, torch.randn(9, 5), torch.ones(9, 5)), r"means has shape"),
        (lambda ax: plots.images(ax, torch.randn(10, 5)), r"\[N, C, H, W\] .* not \[10, 5\]"),
    ],
)
def test_arrays_of_another_shape_are_refused_in_one_line(draw, message):
    with pytest.raises(pv.UserError, match=message):
        draw(pv.plots.axes()[1])
