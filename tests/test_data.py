"""Data sets: splits that never meet, binarization that is stated and seeded, errors of one line."""

import copy
import dataclasses
import math
import os
import urllib.error
import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

import pyro_vae as pv
from pyro_vae.data import DATASETS, arrays, as_data, batches, from_arrays, from_dataset, load

ROOT = os.environ.get("PYRO_VAE_DATA")
needs_mnist = pytest.mark.skipif(
    ROOT is None, reason="needs PYRO_VAE_DATA: a folder that holds torchvision's MNIST"
)


def splits(data):
    return {"train": data.train, "valid": data.valid, "test": data.test}


def numbered(n=100, **options):
    """Data whose values tell which rows they are."""
    return from_arrays(torch.arange(n).float().unsqueeze(1), torch.arange(n) % 7, **options)


# ------------------------------------------------------------------------------- digits


def test_digits_are_scikit_learns_in_three_parts():
    data = load("digits", binarize="none")
    assert data.x_shape == (1, 8, 8) and data.num_classes == 10
    assert {k: len(s) for k, s in splits(data).items()} == {
        "train": 1257,
        "valid": 180,
        "test": 360,
    }
    for split in splits(data).values():
        assert split.x.dtype == torch.float32 and split.y.dtype == torch.int64
        assert torch.equal((split.x * 16).round() / 16, split.x)  # 17 gray levels
        assert 0 <= split.x.min() and split.x.max() <= 1
        assert set(split.y.tolist()) == set(range(10))
    from sklearn.datasets import load_digits

    bunch = load_digits()
    whole = sorted(map(tuple, (bunch.images.reshape(-1, 64) / 16).tolist()))
    ours = torch.cat([s.x.flatten(1) for s in splits(data).values()])
    assert sorted(map(tuple, ours.tolist())) == whole


def test_labels_stay_with_their_images():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    label = {
        img.astype("float32").tobytes(): int(y)
        for img, y in zip(bunch.images / 16, bunch.target, strict=True)
    }
    data = load("digits", binarize="none")
    for split in splits(data).values():
        for x, y in zip(split.x[:50], split.y[:50], strict=True):
            assert label[x[0].numpy().tobytes()] == y


def test_splits_never_meet_and_depend_on_their_seed_alone():
    for n, valid, test in ((100, 0.1, 0.2), (57, 5, 7)):
        parts = splits(numbered(n, valid=valid, test=test))
        rows = [set(s.x[:, 0].int().tolist()) for s in parts.values()]
        assert set.union(*rows) == set(range(n))
        assert sum(len(r) for r in rows) == n
    a, b, c = numbered(), numbered(), numbered(split_seed=1)
    assert torch.equal(a.test.x, b.test.x) and not torch.equal(a.test.x, c.test.x)
    before = torch.get_rng_state()
    numbered()
    assert torch.equal(before, torch.get_rng_state())
    torch.testing.assert_close(a.train.y, a.train.x[:, 0].long() % 7)


def test_splits_do_not_look_at_labels():
    x = torch.randn(60, 2)
    with_labels = from_arrays(x, torch.arange(60) % 3)
    without = from_arrays(x)
    assert torch.equal(with_labels.test.x, without.test.x) and without.test.y is None


# ------------------------------------------------------------------------- binarization


def is_binary(x):
    return bool(((x == 0) | (x == 1)).all())


def test_static_binarization_draws_every_split_once():
    data = load("digits", binarize="static")
    assert all(is_binary(s.x) for s in splits(data).values())
    again, other = (
        load("digits", binarize="static"),
        load("digits", binarize="static", binarize_seed=1),
    )
    for name, split in splits(data).items():
        assert torch.equal(split.x, getattr(again, name).x)
        assert not torch.equal(split.x, getattr(other, name).x)
        assert torch.equal(split.y, getattr(other, name).y)  # the same images
    assert torch.equal(data.observed_split("train").x, data.train.x)


def test_dynamic_binarization_keeps_gray_in_training_and_fixes_the_rest():
    gray, data = load("digits", binarize="none"), load("digits", binarize="dynamic")
    assert torch.equal(data.train.x, gray.train.x)
    assert is_binary(data.valid.x) and is_binary(data.test.x)
    static = load("digits", binarize="static")
    assert torch.equal(data.valid.x, static.valid.x) and torch.equal(data.test.x, static.test.x)
    observed = data.observed_split("train")
    assert is_binary(observed.x) and torch.equal(observed.x, data.observed_split("train").x)
    assert torch.equal(observed.y, data.train.y)


def test_dynamic_binarization_draws_each_batch_anew():
    data = load("digits", binarize="dynamic")
    feed = batches(data, 1257, torch.device("cpu"))
    (first,), (second,) = list(feed.epoch(0)), list(feed.epoch(0))
    assert torch.equal(first["index"], second["index"])  # the same data in the same order,
    assert not torch.equal(first["x"], second["x"])  # each time drawn anew
    assert is_binary(first["x"])
    draws = torch.stack([next(feed.epoch(0))["x"] for _ in range(200)])
    gray = data.train.x[first["index"]]
    error = (gray * (1 - gray) / 200).sqrt()
    assert ((draws.mean(0) - gray).abs() <= 6 * error + 1e-6).all()


def test_binarized_pixels_are_bernoulli_of_the_gray():
    gray = torch.full((20_000, 1), 0.3)
    data = from_arrays(gray, binarize="static", valid=0, test=0)
    assert data.train.x.mean().item() == pytest.approx(0.3, abs=5 * (0.21 / 20_000) ** 0.5)


def test_what_was_done_to_the_data_is_described():
    data = load("digits", binarize="dynamic", split_seed=3, binarize_seed=4)
    assert data.describe() == {
        "name": "digits", "x_shape": [1, 8, 8], "num_classes": 10,
        "sizes": {"train": 1257, "valid": 180, "test": 360},
        "binarize": "dynamic", "binarize_seed": 4, "split_seed": 3,
    }  # fmt: skip
    assert data.likelihood == "bernoulli"
    assert load("digits", binarize="none").likelihood == "binomial"
    assert load("digits").binarize == "none" and DATASETS["mnist"].binarize == "dynamic"


def test_values_outside_of_the_unit_interval_are_not_binarized():
    with pytest.raises(pv.UserError, match=r"binarize needs values in \[0, 1\]; data has \[0, 9\]"):
        from_arrays(torch.arange(10.0).unsqueeze(1), binarize="static", valid=0, test=0)
    with pytest.raises(
        pv.UserError, match="unknown binarization 'dynamik'; did you mean 'dynamic'"
    ):
        load("digits", binarize="dynamik")


# ------------------------------------------------------------------------------- batches


def test_an_epoch_sees_each_datum_once_in_an_order_of_its_own():
    data = as_data(torch.arange(10.0).unsqueeze(1))
    feed = batches(data, 4, torch.device("cpu"), seed=2)
    assert len(feed) == 3
    orders = [torch.cat([b["index"] for b in feed.epoch(e)]) for e in (0, 1, 0)]
    assert [len(b["x"]) for b in feed.epoch(0)] == [4, 4, 2]
    assert torch.equal(orders[0], orders[2]) and not torch.equal(orders[0], orders[1])
    assert sorted(orders[1].tolist()) == list(range(10))
    for batch in feed.epoch(1):
        assert torch.equal(batch["x"], data.train.x[batch["index"]])
    rest = [b["index"] for b in feed.epoch(1, start=1)]
    assert torch.equal(torch.cat(rest), orders[1][4:])  # from the middle of an epoch


def test_batches_carry_labels_where_there_are_any():
    x = torch.randn(6, 2)
    assert "y" not in next(batches(as_data(x), 3, torch.device("cpu")).epoch(0))
    data = as_data((x, torch.arange(6)))
    batch = next(batches(data, 3, torch.device("cpu")).epoch(0))
    assert torch.equal(batch["y"], data.train.y[batch["index"]])


# ------------------------------------------------------------------- arrays and data sets


def test_arcs_are_five_arms_in_the_plane():
    data = load("arcs")
    assert data.x_shape == (2,) and data.num_classes == 5 and data.binarize == "none"
    assert {k: len(s) for k, s in splits(data).items()} == {
        "train": 8000, "valid": 1000, "test": 1000,
    }  # fmt: skip
    assert torch.equal(load("arcs").train.x, data.train.x)
    assert not torch.equal(load("arcs", split_seed=1).train.x, data.train.x)
    counts = sum(torch.bincount(s.y, minlength=5) for s in splits(data).values())
    assert counts.tolist() == [2000] * 5
    # an arm is a rotation of the first: turned back, all arms have one mean
    angle = 2 * torch.pi * data.train.y / 5
    x, y = data.train.x.T
    back = torch.stack([x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()], 1)
    means = torch.stack([back[data.train.y == k].mean(0) for k in range(5)])
    assert (means - means.mean(0)).abs().max() < 0.05


def test_bytes_are_divided_by_255_and_arrays_become_tensors():
    x = np.arange(0, 240, 24, dtype="uint8").reshape(10, 1)
    data = from_arrays(x, np.arange(10) % 2, valid=0, test=0)
    assert data.train.x.dtype == torch.float32
    torch.testing.assert_close(
        data.train.x.sort(0).values, torch.tensor(x).float() / 255, rtol=1e-6, atol=0
    )
    assert data.num_classes == 2 and data.valid is None and data.test is None


@pytest.mark.parametrize(
    ("shape", "is_last"),
    [((9, 8, 8, 3), True), ((9, 8, 8, 1), True), ((9, 3, 8, 8), False), ((9, 1, 3, 3), False),
     ((9, 8, 8), False), ((9, 5, 8, 8), False)],
)  # fmt: skip
def test_images_with_channels_last_are_warned_of(shape, is_last):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        from_arrays(np.random.default_rng(0).random(shape), valid=0, test=0)
    assert [("channels last" in str(w.message)) for w in caught] == [True] * is_last


class Squares(Dataset):
    def __init__(self, labels):
        self.labels = labels

    def __len__(self):
        return 20

    def __getitem__(self, i):
        x = torch.full((2, 2), float(i))
        return (x, i % 4) if self.labels else x


@pytest.mark.parametrize("labels", [True, False])
def test_a_torch_dataset_becomes_data(labels):
    data = from_dataset(Squares(labels), valid=5, test=5)
    assert [len(s) for s in splits(data).values()] == [10, 5, 5]
    assert data.x_shape == (2, 2) and data.num_classes == (4 if labels else None)
    if labels:
        assert torch.equal(data.train.y, data.train.x[:, 0, 0].long() % 4)


def test_bare_data_are_all_for_training():
    x, y = torch.randn(9, 3), torch.arange(9) % 2
    for given in (x, x.numpy(), (x, y), TensorDataset(x, y), Squares(False)):
        data = as_data(given)
        assert data.valid is None and data.test is None
    assert len(as_data(x).train) == 9 and as_data((x, y)).train.y is not None
    data = load("arcs")
    assert as_data(data) is data


def test_bare_data_keep_their_order_so_that_index_is_the_callers_row():
    """A guide with a row per data point is evaluated by `index=arange(len(x))` on the caller's x."""
    x = torch.arange(30.0).unsqueeze(1)
    for given in (x, (x, torch.arange(30)), TensorDataset(x, torch.arange(30))):
        assert torch.equal(as_data(given).train.x, x)


def test_loaders_and_sized_iterables_pass_as_they_are():
    x, y = torch.randn(9, 3), torch.arange(9)
    loader = DataLoader(TensorDataset(x, y), batch_size=4)
    assert as_data(loader) is loader
    feed = batches(loader, 99, torch.device("cpu"))
    assert len(feed) == 3
    actual = list(feed.epoch(0))
    assert torch.equal(torch.cat([b["x"] for b in actual]), x)
    assert torch.equal(torch.cat([b["y"] for b in actual]), y)
    lists = [x[:3], x[3:6], x[6:]]
    assert as_data(lists) is lists
    assert all("y" not in b for b in batches(lists, 99, torch.device("cpu")).epoch(0))
    with pytest.raises(pv.UserError, match="cannot train on generator"):
        as_data(b for b in lists)


def test_missing_splits_are_named():
    with pytest.raises(pv.UserError, match="data has no test split"):
        as_data(torch.zeros(3, 2)).observed_split("test")
    with pytest.raises(pv.UserError, match="unknown split 'name'"):
        as_data(torch.zeros(3, 2)).observed_split("name")


def test_data_are_values():
    data = load("arcs")
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.name = "else"


# ----------------------------------------------------------------------------- mistakes

X = torch.zeros(10, 2)


def with_nan():
    x = X.clone()
    x[3, 1] = x[3, 0] = x[7, 0] = float("nan")
    return x


@pytest.mark.parametrize(
    "x, y, options, message",
    [
        (with_nan(), None, {}, r"x has 3 NaN or infinite values, in 2 rows \(first: row 3\)"),
        (X / 0 + 1, None, {}, "NaN"),
        (torch.zeros(10), None, {}, r"x has shape \[10\]; expected \[N, ...\]"),
        (X, torch.zeros(9), {}, r"\[9\] labels for 10 data"),
        (
            X,
            torch.zeros(10, 3),
            {},
            r"labels have shape \[10, 3\]; expected \[N\].* go by the names",
        ),
        (X, torch.full((10,), 0.5), {}, "labels must be whole numbers"),
        (X, torch.arange(10), {"num_classes": 9}, r"labels must lie in 0\.\.8 .*; found 0\.\.9"),
        (X, torch.full((10,), -2), {}, r"labels must be whole numbers from 0 .*found -2"),
        (X, None, {"valid": 5, "test": 5}, r"valid \+ test = 10 leaves nothing of 10"),
        (X, None, {"valid": 0.5, "test": 0.6}, "leaves nothing of 10"),
        (X, None, {"valid": -1}, "leaves nothing"),
    ],
)
def test_bad_data_raise_one_line(x, y, options, message):
    with pytest.raises(pv.UserError, match=message) as error:
        from_arrays(x, y, **options)
    assert "\n" not in str(error.value)


def test_unlabeled_data_are_minus_one():
    y = torch.tensor([0, -1, 2, -1, 1, 0, 0, 0, 0, 0])
    data = from_arrays(X, y, valid=0, test=0)
    assert data.num_classes == 3 and (data.train.y == -1).sum() == 2


def test_data_without_any_label_have_no_classes():
    data = from_arrays(X, torch.full((10,), -1), valid=0, test=0)
    assert data.num_classes is None


def test_missing_values_are_no_remedy_for_infinite_ones():
    x = with_nan()
    x[0, 0] = math.inf
    with pytest.raises(pv.UserError, match="4 NaN or infinite values") as error:
        from_arrays(x)
    assert "missing" not in str(error.value)


@pytest.mark.parametrize(
    "y, message",
    [
        (torch.arange(10) * 10**14, "labels go up to 900000000000000, of 10 distinct values"),
        (np.array(["a", "b"] * 5), "labels are text: number them"),
        (["a", "b"] * 5, "labels are text: number them"),
        ("kind", r"pv.data.from_frame\(df, labels='kind'\)"),
        (torch.eye(10), r"labels have shape \[10, 10\]; expected \[N\].* {'x': x, 'y': y}"),
        (torch.full((10,), float("nan")), "labels must be whole numbers"),
    ],
)
def test_labels_that_number_no_classes_are_refused(y, message):
    with pytest.raises(pv.UserError, match=message) as error:
        from_arrays(X, y)
    assert "\n" not in str(error.value)


class Items(Dataset):
    def __init__(self, *items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


def test_a_dataset_of_dicts_is_arrays_by_name():
    rows = torch.randn(4, 3)
    data = as_data(Items(*({"x": row, "ys": -row} for row in rows)))
    assert torch.equal(data.train.x, rows) and torch.equal(data.train.others["ys"], -rows)
    assert data.names == ("x", "ys")


def test_a_dataset_whose_items_are_no_numbers_of_one_shape_is_refused():
    from PIL import Image

    row = torch.zeros(3)
    for items, message in (
        ((), "this Items is empty"),
        ((row, torch.zeros(2)), r"rows of different shapes: \[3\] in row 0, \[2\] in row 1"),
        ((Image.new("L", (2, 2)),), "is a PIL image: .*ToTensor"),
        (((Image.new("L", (2, 2)), 1),), "is a PIL image: .*ToTensor"),
        (((row, "cat"), (row, "dog")), "labels y are text"),
        (({"a": row},), "need 'x', the data themselves; there are a"),
    ):
        with pytest.raises(pv.UserError, match=message):
            as_data(Items(*items))


@pytest.mark.parametrize(
    "data, message",
    [
        ("digits", r"pass pv.data.load\('digits'\)"),
        ([], "there are no values"),
        ({"a": X}, "need 'x', the data themselves; there are a"),
        ({"x": X, "w": torch.zeros(9)}, "w has 9 rows, x has 10"),
        ({"x": X, "w": torch.zeros(10, 2, dtype=torch.uint8)}, "gray levels or one-hot rows"),
        ((X, X, X), r"a tuple of 3: pass \(x, y\)"),
        ({1, 2}, "cannot train on set"),
        (None, "cannot train on NoneType"),
        (torch.zeros(5, 0), r"x has shape \[5, 0\]: there are no values"),
        (np.zeros((4, 2), "datetime64[s]"), "must be an array of numbers; it has datetime64"),
        (np.zeros(4, [("a", "f4")]), "must be an array of numbers"),
    ],
)
def test_untrainable_data_raise_one_line(data, message):
    with pytest.raises(pv.UserError, match=message) as error:
        as_data(data)
    assert "\n" not in str(error.value)


def test_sparse_matrices_of_counts_are_data_and_others_are_refused():
    from scipy.sparse import csr_matrix

    data = as_data(csr_matrix(np.eye(3)))
    assert torch.equal(data.observed_split("train").x, torch.eye(3))
    with pytest.raises(pv.UserError, match=r"holds other numbers: pass x.toarray\(\)"):
        as_data(csr_matrix(np.eye(3) / 2))


def test_lists_of_numbers_are_an_array_and_lists_of_tensors_batches():
    assert torch.equal(as_data([[1, 2], [3, 4]]).train.x, torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    batches_of_two = [X[:2], X[2:4]]
    assert as_data(batches_of_two) is batches_of_two
    data = as_data(([[1, 2], [3, 4]], [0, 1]))
    assert data.train.x.shape == (2, 2) and data.train.y.tolist() == [0, 1]


def test_arrays_by_name_are_split_by_rows_and_keep_their_kind():
    n = torch.arange(20)
    arrays = {"x": n.unsqueeze(1), "ids": n, "mask": n > 3, "image": n.double().reshape(20, 1, 1)}
    data = from_arrays(arrays, valid=4, test=5)
    assert data.names == ("x", "ids", "mask", "image") and data.train.y is None
    for split in splits(data).values():
        rows = split.x[:, 0].long()
        assert torch.equal(split.others["ids"], rows) and split.others["ids"].dtype == torch.int64
        assert torch.equal(split.others["mask"], rows > 3)
        assert torch.equal(split.others["image"], rows.double().reshape(-1, 1, 1))
    assert data.describe()["names"] == ["x", "ids", "mask", "image"]
    with pytest.raises(pv.UserError, match="by name, .* or separately, but not both"):
        from_arrays(arrays, y=n)


def test_data_are_printed_in_one_line():
    for data in (
        load("digits"),
        from_arrays({"x": torch.zeros(10_000, 3), "ys": torch.ones(10_000)}),
    ):
        assert "\n" not in repr(data) and len(repr(data)) < 200
        assert "\n" not in repr(data.train)
    assert repr(load("digits")).startswith(
        "Data('digits': 1257 train, 180 valid, 360 test; x [1, 8, 8]"
    )


def test_data_beyond_the_range_of_a_dtype_are_not_cast():
    data = from_arrays(torch.full((4, 2), 1e300, dtype=torch.float64), valid=0, test=0)
    assert data.cast(torch.float64).train.x.dtype == torch.float64
    with pytest.raises(pv.UserError, match="as torch.float32, .* 8 NaN or infinite"):
        data.cast(torch.float32)


def test_binarization_draws_the_same_from_the_same_numbers():
    gray = torch.rand(50, 3)
    drawn = [from_arrays(x, binarize="static").train.x for x in (gray, gray.double(), gray.numpy())]
    assert torch.equal(drawn[0], drawn[1].float()) and torch.equal(drawn[0], drawn[2])


def test_new_data_are_standardized_as_the_data_were_and_back():
    data = pv.data.standardize(from_arrays(3 + 5 * torch.randn(200, 2, dtype=torch.float64)))
    raw = 3 + 5 * torch.randn(7, 2, dtype=torch.float64)
    mean, sd = data.scaling
    torch.testing.assert_close(data.standardize_values(raw), (raw - mean) / sd)
    torch.testing.assert_close(data.unstandardize(data.standardize_values(raw)), raw)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_constant_columns_are_only_centered(missing, dtype):
    """A constant in float32 has a deviation of 1.5e-08 by rounding, which is no scale."""
    rng = np.random.default_rng(0)
    x = np.c_[rng.normal(size=(300, 2)), np.full(300, 0.1), np.full(300, -1e6 / 3)].astype(dtype)
    if missing:
        x[::5, 0] = x[::7, 2] = np.nan
    data = pv.data.standardize(from_arrays(x, valid=0, test=0, missing=missing))
    assert data.scaling[1][2:].tolist() == [1.0, 1.0]
    assert data.train.x[:, 2:].nan_to_num().abs().max() < 1e-6
    torch.testing.assert_close(
        data.scaling[1][1].item(), float(x[:, 1].std(dtype=np.float64)), rtol=1e-7, atol=0
    )
    baselines = arrays.rows_for_baselines(
        torch.from_numpy(x), torch.from_numpy(x), standardize=True
    )
    assert np.abs(baselines[0][:, 2:]).max() < 1e-6


def test_values_that_float32_cannot_tell_apart_are_standardized_in_float64():
    """Time stamps of five minutes: float32 has three values there."""
    seconds = 1.7e9 + np.arange(300.0)
    x = np.c_[seconds, np.sin(seconds)]
    for data in (
        from_arrays(x, valid=0, test=0),
        pv.data.from_frame({"t": x[:, 0], "v": x[:, 1]}, valid=0, test=0),
        from_arrays({"x": x}, valid=0, test=0),
    ):
        data = pv.data.standardize(data)
        exact = (x - x.mean(0)) / x.std(0)
        np.testing.assert_allclose(data.train.x, exact, atol=1e-6)
        np.testing.assert_allclose(data.unstandardize(data.train.x), x, rtol=1e-12)
        one = data.standardize_values({"t": x[7:8, 0], "v": x[7:8, 1]} if data.table else x[7:8])
        np.testing.assert_allclose(one, exact[7:8], atol=1e-6)
    run = pv.method("vae", x, hidden=[4], latent_dim=1, epochs=1).fit(progress=False)
    codes = run.encode(x)["z"]
    assert len(codes.unique()) == 300  # though the network is in float32
    loader = DataLoader(torch.from_numpy(x), batch_size=1)
    torch.testing.assert_close(run.encode(loader)["z"], codes)
    torch.testing.assert_close(run.encode(x[7:8])["z"], codes[7:8])
    model = pv.models.VAE((2,), 1, "normal")
    with pytest.raises(pv.UserError, match=r"large values that differ little.*pv.data.standardize"):
        pv.fit(model, pv.guides.Guide(model), x, 1, progress=False)
    assert (
        from_arrays(np.random.default_rng(0).normal(100, 1, (50, 2))).train.x.dtype == torch.float32
    )


@pytest.mark.parametrize(
    "x",
    [
        np.random.default_rng(0).random((200, 2)) * [5e-5, 1] + [0.99995, 0],  # probabilities
        np.where(np.arange(40) % 2, 1.0, 1.0001)[:, None] * [1, 2],
        1e6 + np.random.default_rng(0).integers(0, 50, (200, 2)),  # counts that float32 has
        np.array([[1.0, 2.0], [1.0 + 1e-6, 3.0]] + [[5.0, 7.0]] * 8),
    ],
)
def test_values_that_float32_tells_apart_are_trained_on(x):
    x = np.asarray(x, float)
    model = pv.models.VAE((2,), 1, "normal", pv.conditionals.MLP((4,)))
    guide = pv.guides.Guide(model, network=pv.conditionals.MLP((4,)))
    losses = [
        pv.fit(*copy.deepcopy((model, guide)), v, 1, progress=False, compile=False).history[0][
            "loss"
        ]
        for v in (x, x.astype(np.float32))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_one_nearly_black_image_is_an_image():
    dark = np.zeros((1, 4), np.uint8)
    dark[0, 2] = 1
    assert from_arrays(dark, valid=0, test=0).train.x.max() == pytest.approx(1 / 255)


def test_bytes_of_zeros_and_ones_are_not_taken_for_nearly_black_images():
    x = (np.random.default_rng(0).random((20, 3)) < 0.5).astype(np.uint8)
    with pytest.raises(pv.UserError, match="x has the 8-bit integers 0 and 1"):
        from_arrays(x)
    assert from_arrays(x.astype(float)).likelihood == "bernoulli"


def test_images_of_gray_or_color_have_one_default_likelihood(tmp_path):
    from PIL import Image

    bytes_ = np.random.default_rng(0).integers(0, 256, (10, 3, 4, 4)).astype(np.uint8)
    for i, image in enumerate(bytes_):
        Image.fromarray(image.transpose(1, 2, 0)).save(tmp_path / f"{i}.png")
    for x in (bytes_, bytes_ / 255, bytes_[:, :1]):
        assert from_arrays(x).likelihood == "continuous-bernoulli"
    assert load(str(tmp_path)).likelihood == "continuous-bernoulli"
    assert from_arrays(bytes_ / 255 - 0.5).likelihood == "normal"
    assert from_arrays(bytes_.reshape(10, -1) / 255).likelihood == "normal"


def test_an_unknown_name_among_none_raises():
    from pyro_vae.errors import unknown_name_error

    assert str(unknown_name_error("latent", "z", [])) == "unknown latent 'z'; there are none"


def test_an_unknown_data_set_raises_with_the_nearest_name():
    with pytest.raises(pv.UserError, match="unknown data set 'mnits'; did you mean 'mnist'"):
        load("mnits")


# --------------------------------------------------------------------------- torchvision


@pytest.mark.parametrize(
    "failure",
    [
        RuntimeError("Error downloading train-images-idx3-ubyte.gz:\nTried https://...\n"),
        urllib.error.URLError("Name or service not known"),
        PermissionError(13, "Permission denied"),
    ],
)
@pytest.mark.parametrize("name, kind", [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_an_unavailable_data_set_raises_one_line(name, kind, failure, monkeypatch, tmp_path):
    import torchvision

    def fail(*_, **__):
        raise failure

    monkeypatch.setattr(torchvision.datasets, kind, fail)
    with pytest.raises(pv.UserError, match=f"{kind} is not in .* could not be downloaded") as error:
        load(name, root=tmp_path)
    message = str(error.value)
    assert "\n" not in message and "PYRO_VAE_DATA" in message and str(tmp_path) in message


def test_mnists_last_ten_thousand_training_images_are_for_validation(monkeypatch, tmp_path):
    import torchvision

    class Fake:
        def __init__(self, root, train, download):
            assert root == tmp_path
            n = 10_050 if train else 20
            self.data = (torch.arange(n) % 256).to(torch.uint8).reshape(n, 1, 1).expand(n, 2, 2)
            self.targets = torch.arange(n) % 10

    monkeypatch.setattr(torchvision.datasets, "MNIST", Fake)
    monkeypatch.setenv("PYRO_VAE_DATA", str(tmp_path))  # root= unsaid
    data = load("mnist", binarize="none")
    assert [len(s) for s in splits(data).values()] == [50, 10_000, 20]
    assert data.x_shape == (1, 2, 2) and data.name == "mnist"
    torch.testing.assert_close(data.valid.x[0, 0, 0, 0], torch.tensor(50 / 255))
    assert data.likelihood == "continuous-bernoulli"


@needs_mnist
def test_mnist_is_mnist():
    data = load("mnist", binarize="static", root=ROOT)
    assert [len(s) for s in splits(data).values()] == [50_000, 10_000, 10_000]
    assert data.x_shape == (1, 28, 28) and data.num_classes == 10
    assert torch.bincount(data.test.y).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]  # fmt: skip
    assert is_binary(data.test.x)
    assert data.test.x.mean().item() == pytest.approx(0.1325, abs=0.001)


def test_a_quantized_tensor_is_refused():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch plans to remove them
        x = torch.quantize_per_tensor(torch.rand(10, 3), 0.1, 0, torch.quint8)
    with pytest.raises(pv.UserError, match=r"quantized tensor: pass x.dequantize\(\)"):
        from_arrays(x)


@pytest.mark.parametrize("shape", [(10, 0), (0, 3), (10, 1, 0)])
def test_x_without_values_is_refused(shape):
    with pytest.raises(pv.UserError, match="there are no values in it"):
        from_arrays(torch.zeros(shape))


@pytest.mark.parametrize("dtype", ["longdouble", ">f8", ">i4", "float16", "int8"])
def test_numbers_of_any_kind_in_a_file_are_the_same_numbers(dtype, tmp_path):
    values = np.arange(30, dtype=np.float64).reshape(10, 3) - 5
    for suffix in (".npz", ".npy"):
        path = tmp_path / f"numbers{suffix}"
        array = values.astype(dtype)
        np.savez(path, x=array) if suffix == ".npz" else np.save(path, array)
        data = load(str(path))
        rows = torch.cat([split.x for split in splits(data).values() if split is not None])
        assert sorted(rows.flatten().tolist()) == sorted(values.flatten().tolist())


@pytest.mark.parametrize(
    "y",
    [
        np.array(["a"] * 10),
        np.array([b"a"] * 10),
        np.zeros(10, "datetime64[s]"),
        np.zeros(10, [("a", "f4")]),
        np.zeros(10, complex),
    ],
    ids=["text", "bytes", "dates", "records", "complex"],
)
def test_labels_in_a_file_that_are_no_numbers_are_named(y, tmp_path):
    np.savez(tmp_path / "odd.npz", x=np.zeros((10, 2)), y=y)
    with pytest.raises(pv.UserError, match="odd.npz: y has numbers of no kind") as error:
        load(str(tmp_path / "odd.npz"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_a_damaged_file_gives_one_line_wherever_a_bit_is_flipped(suffix, tmp_path):
    path = tmp_path / f"x{suffix}"
    x = np.random.default_rng(0).random((10, 3))
    np.savez_compressed(path, x=x) if suffix == ".npz" else np.save(path, x)
    whole = path.read_bytes()
    for place in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        path.write_bytes(bytes(damaged))
        try:
            load(str(path))
        except pv.UserError as error:
            assert "\n" not in str(error)
    for length in (0, 5, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:length])
        with pytest.raises(pv.UserError):
            load(str(path))


def test_a_bit_that_is_flipped_in_the_numbers_of_an_archive_is_seen(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, x=np.ones((100, 3)))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10  # amid the numbers
    path.write_bytes(bytes(content))
    with pytest.raises(pv.UserError, match="CRC"):
        load(str(path))


def test_sparse_matrices_are_made_dense_by_their_owner():
    from scipy.sparse import csr_matrix

    for value in (csr_matrix(np.eye(4) / 3), torch.eye(4).to_sparse()):
        with pytest.raises(pv.UserError, match="sparse"):
            from_arrays(value)


def test_every_change_of_values_or_labels_changes_the_fingerprint():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 3)), rng.integers(0, 3, 60)
    known = from_arrays(x, y).fingerprint()
    assert from_arrays(x.copy(), y.copy()).fingerprint() == known
    for row in (0, 20, 40, 59):  # of any split
        edited = x.copy()
        edited[row, 1] += 0.01
        assert from_arrays(edited, y).fingerprint() != known
        edited = x.copy()
        edited[[row, row - 1]] = edited[[row - 1, row]]
        assert from_arrays(edited, y).fingerprint() != known
    assert from_arrays(x[:, [1, 0, 2]], y).fingerprint() != known
    assert from_arrays(-x, y).fingerprint() != known
    assert from_arrays(x, np.roll(y, 1)).fingerprint() != known
    assert from_arrays(x.astype(np.float32), y).fingerprint() == known


@pytest.mark.parametrize("standardize", [False, True])
def test_changes_that_a_sum_of_sizes_does_not_see_change_the_fingerprint(standardize):
    """Signs, columns beside larger ones, units, labels removed, further arrays."""
    rng = np.random.default_rng(0)
    x = np.stack([rng.normal(5e4, 1e4, 3000).round(), rng.poisson(3, 3000)], 1)
    signs, y = rng.choice([-1.0, 1.0], (3000, 1)), rng.integers(0, 2, 3000)

    def value(x=x, c=signs, y=y):
        data = from_arrays(x, y, c=c)
        if standardize:
            data = pv.data.standardize(pv.data.standardize(data), "c")
        return data.fingerprint()

    edited, fewer, known = x.copy(), np.where(np.arange(3000) % 2, y, -1), value()
    edited[1500, 1] += 1
    assert value() == known
    for change in (
        {"x": edited}, {"x": 4 * x}, {"c": -signs}, {"c": np.roll(signs, 1)}, {"c": 2 * signs},
        {"y": fewer}, {"y": np.where(y == 1, fewer, y)},
    ):  # fmt: skip
        (name,) = change
        assert value(**change)[f"values of {name}"] != known[f"values of {name}"], change


def test_a_count_of_another_column_changes_the_fingerprint_of_a_sparse_table():
    from scipy.sparse import csr_matrix

    counts = np.random.default_rng(0).poisson(2, (40, 5))
    moved = counts.copy()
    moved[7, 1] += 1
    moved[7, 2] = max(moved[7, 2] - 1, 0)
    known, other = (from_arrays(csr_matrix(c)).fingerprint() for c in (counts, moved))
    assert known["mean of x"] == other["mean of x"] and known["values of x"] != other["values of x"]


def test_8_bit_counts_are_counts_where_the_likelihood_says_so():
    """Divided by 255, they were samples with a mean of 0.008 for 2."""
    counts = np.random.default_rng(0).poisson(2, (60, 4)).astype(np.uint8)
    expected = pv.data.from_arrays(counts.astype(np.int64)).train.x
    for options in ({"likelihood": "poisson"}, {"library_size": True}):
        rows = counts + 1 if "library_size" in options else counts
        wider = pv.data.from_arrays(rows.astype(np.int64), **options)
        torch.testing.assert_close(pv.data.from_arrays(rows, **options).train.x, wider.train.x)
    with pytest.warns(UserWarning, match="8-bit integers up to .* taken as gray levels.*counts"):
        pv.data.from_arrays(counts)
    torch.testing.assert_close(pv.data.from_arrays(counts, likelihood="poisson").train.x, expected)
    run = pv.method("vae", pv.data.from_arrays(counts, likelihood="poisson"), epochs=1, hidden=[4])
    codes = run.fit(progress=False)
    torch.testing.assert_close(codes.encode(counts)["z"], codes.encode(counts.astype(int))["z"])
    with warnings.catch_warnings(action="error"):  # images, also flattened ones
        pv.data.from_arrays(np.random.default_rng(0).integers(0, 255, (60, 16), dtype=np.uint8))
