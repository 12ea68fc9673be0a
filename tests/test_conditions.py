"""What a conditional model is given: covariates of the user's, labels, quadrants."""

import pytest
import torch

import pyro_vae as pv
from pyro_vae.data import Labels, Quadrants, batches


@pytest.fixture(scope="module")
def digits():
    return pv.data.load("digits", binarize="dynamic")


@pytest.mark.parametrize("observed, pixels", [(1, 16), (2, 32), (3, 48)])
def test_quadrants_part_an_image_and_join_it_again(observed, pixels):
    image = torch.rand(5, 1, 8, 8)
    quadrants = Quadrants(observed, (1, 8, 8))
    x, c = quadrants(image, None)
    assert x.shape == (5, 64 - pixels) and c.shape == (5, pixels)
    assert torch.equal(quadrants.join(x, c), image)


def test_the_quadrants_are_those_of_the_task():
    image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    parts = [Quadrants(n, (1, 2, 2))(image, None)[1][0].tolist() for n in (1, 2, 3)]
    assert parts == [[3], [1, 3], [1, 3, 4]]  # lower left; left; all but the upper right
    odd = Quadrants(1, (1, 3, 5))
    assert odd.mask().sum() == 2 * 2


@pytest.mark.parametrize("observed, shape", [(0, (1, 8, 8)), (4, (1, 8, 8)), (1, (5,))])
def test_quadrants_of_something_else_are_refused(observed, shape):
    with pytest.raises(pv.UserError):
        Quadrants(observed, shape)


def test_every_batch_is_conditioned_after_it_is_binarized(digits):
    data = digits.with_condition(Quadrants(1, digits.x_shape))
    assert data.x_shape == (48,) and data.c_shape == (16,) and digits.c_shape is None
    batch = next(iter(batches(data, 64, "cpu").epoch(0)))
    assert batch["x"].shape == (64, 48) and batch["c"].shape == (64, 16)
    assert set(batch["c"].unique().tolist()) == {0, 1}
    gray = data.condition(data.train.x[batch["index"]], None)[1]
    assert (batch["c"][gray == 0] == 0).all()
    for split in ("train", "valid", "test"):
        part = data.observed_split(split)
        whole = data.condition.join(part.x, part.c)
        assert torch.equal(whole, digits.observed_split(split).x)
    assert "Quadrants" in data.describe()["condition"]


def test_labels_are_given_one_hot(digits):
    data = digits.with_condition(Labels(10))
    part = data.observed_split("test")
    assert torch.equal(part.c.argmax(-1), digits.test.y) and part.x.shape == digits.test.x.shape
    with pytest.raises(pv.UserError, match="have none"):
        Labels(10)(part.x, None)


@pytest.mark.parametrize(
    "y, message",
    [
        ([0, 1, 2], r"Labels\(2\) conditions on labels 0\.\.1; found 0\.\.2"),
        ([0, -1, 1], r"found -1\.\.1; every data point needs a label"),
    ],
)
def test_a_label_that_would_be_a_row_of_zeros_is_refused(y, message):
    data = pv.data.from_arrays(torch.zeros(3, 2), torch.tensor(y), valid=0, test=0)
    with pytest.raises(pv.UserError, match=message):
        data.with_condition(Labels(2))
    with pytest.raises(pv.UserError, match=message):
        Labels(2)(data.train.x, data.train.y)


def test_a_users_covariates_follow_their_rows():
    x = torch.arange(20.0).unsqueeze(1)
    data = pv.data.from_arrays(x, c=torch.cat([x, -x], 1))
    assert data.c_shape == (2,)
    for split in (data.train, data.valid, data.test):
        assert torch.equal(split.c, torch.cat([split.x, -split.x], 1))
    batch = next(iter(batches(data, 4, "cpu").epoch(0)))
    assert torch.equal(batch["c"][:, :1], batch["x"])
    with pytest.raises(pv.UserError, match="c has 19 rows, x has 20"):
        pv.data.from_arrays(x, c=x[1:])
    with pytest.raises(pv.UserError, match="NaN"):
        pv.data.from_arrays(x, c=x / 0 * 0)


def test_a_loaders_batches_may_be_dicts():
    x = torch.randn(6, 2)
    loader = torch.utils.data.DataLoader([{"x": row, "c": -row} for row in x], batch_size=3)
    (first, _) = batches(loader, 3, "cpu").epoch(0)
    assert torch.equal(first["x"], x[:3]) and torch.equal(first["c"], -x[:3])
