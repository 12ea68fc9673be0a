"""`fit`'s arguments: one line for what it cannot take, and the same answer from the same numbers."""

import json

import numpy as np
import pyro
import pytest
import torch
from test_train import quiet, same_tensors, weights, without_seconds
from torch.utils.data import DataLoader, TensorDataset

import pyro_vae as pv
from pyro_vae.conditionals import MLP

NET = MLP((8,))
X = (torch.rand(48, 6, generator=torch.Generator().manual_seed(0)) > 0.5).float()


def pair(seed=0):
    torch.manual_seed(seed)
    m = pv.models.VAE((6,), 2, network=NET)
    return m, pv.guides.Guide(m, network=NET)


def fit(pair, x=X, epochs=2, **options):
    return quiet(*pair, x, epochs, **{"batch_size": 16, **options})


@pytest.mark.parametrize(
    "options, message",
    [
        ({"seed": None}, r"seed must be an integer in 0\.\.2\*\*42 - 1, not None"),
        ({"seed": 1.5}, "seed must be an integer .* not 1.5"),
        ({"seed": "a"}, "seed must be an integer .* not 'a'"),
        ({"seed": -1}, "seed must be an integer .* not -1"),
        ({"seed": 2**63}, "seed must be an integer"),
        ({"seed": True}, "seed must be an integer"),
        ({"epochs": None}, "epochs must be a number, not None"),
        ({"epochs": True}, "epochs must be an integer >= 1, got True"),
        ({"lr": float("inf")}, "lr must be positive and finite"),
        ({"lr": float("nan")}, "lr must be positive, got nan"),
        ({"lr": "fast"}, "lr must be a positive number, got 'fast'"),
        ({"objective": "elbo"}, r"objective must be one of pv\.objectives.*not 'elbo'"),
        ({"objective": pv.objectives.ELBO}, r"objective must be one of pv\.objectives"),
        ({"initialize": "mixture"}, r"initialize must be one of pv\.train's.*not 'mixture'"),
        ({"device": "meta"}, "cannot compute on 'meta'"),
        ({"config": {"a": object()}}, "config must be what JSON can hold"),
    ],
)
def test_a_bad_argument_is_refused_in_one_line(options, message):
    epochs = options.get("epochs", 2)
    rest = {k: v for k, v in options.items() if k != "epochs"}
    with pytest.raises(pv.UserError, match=message) as e:
        pv.fit(*pair(), X, epochs, progress=False, **{"device": "cpu", **rest})
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("programs", [(None, 1), (0, None), (0, "guide"), (0, pv.guides.Guide)])
def test_what_is_not_a_program_is_refused(programs):
    made = pair()
    chosen = [made[p] if p in (0, 1) else p for p in programs]
    with pytest.raises(pv.UserError, match="must be a Pyro program, a module or a function"):
        fit(chosen)


def test_numpy_numbers_are_numbers(tmp_path):
    options = {"batch_size": np.int64(8), "lr": np.float32(0.5), "seed": np.int32(3)}
    a, b = pair(), pair()
    run = fit(a, **options, out=tmp_path)
    expected = fit(b, batch_size=8, lr=0.5, seed=3)
    assert without_seconds(run.history) == without_seconds(expected.history)
    assert same_tensors(weights(*a), weights(*b))
    assert json.loads((tmp_path / "config.json").read_text())["fit"]["batch_size"] == 8


def test_one_name_to_observe_is_not_read_letter_by_letter():
    with pytest.raises(pv.UserError, match="observes 'xy', which the data do not have"):
        fit(pair(), observed="xy")


def test_a_pair_in_which_everything_is_frozen_is_refused():
    m, g = pair()
    m.requires_grad_(False), g.requires_grad_(False)
    with pytest.raises(pv.UserError, match="no parameters to train: requires_grad is off"):
        fit((m, g))


@pytest.mark.parametrize("compile", ["auto", False])
def test_parameters_that_the_loss_does_not_use_are_refused(compile):
    model = pv.models.VAE((3,), 2, likelihood="normal", network=pv.conditionals.MLP((4,)))
    guide = pv.guides.Guide(model)
    for module in (model, guide):
        module.requires_grad_(False)
    model.unused = torch.nn.Linear(2, 2)
    with pytest.raises(pv.UserError, match="no parameter of the pair has an effect on its loss"):
        pv.fit(model, guide, torch.randn(8, 3), 1, compile=compile, progress=False)


def test_gradients_of_torch_switched_off_outside_do_not_matter_or_are_refused():
    a, b = pair(), pair()
    with torch.no_grad():
        fit(a)
    fit(b)
    assert same_tensors(weights(*a), weights(*b))
    with torch.inference_mode(), pytest.raises(pv.UserError, match=r"outside of torch\.inference"):
        fit(pair())
    with torch.inference_mode():
        made = pair()
    with pytest.raises(pv.UserError, match="made under torch.inference_mode"):
        fit(made)


@pytest.mark.parametrize("free", [False, True])
def test_no_gradient_is_left_after_a_run_or_an_error(free):
    m, g = pair()
    scale = pyro.param("s", torch.ones(6)).unconstrained() if free else None

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", m.p_z())
            if free:
                z = z * pyro.param("s")[:2]
            pyro.sample("x", m.p_x(z=z), obs=x)

    fit((model, g))
    fit((m, g))
    parameters = [*m.parameters(), *g.parameters(), *([scale] if free else [])]
    assert all(p.grad is None for p in parameters)
    with pytest.raises(pv.UserError, match="not finite"):
        fit((m, g), lr=1e30)
    assert all(p.grad is None for p in parameters)


@pytest.mark.parametrize("form", ["tensor", "data", "loader", "float64 model"])
def test_floats_of_another_type_give_the_same_answer(form):
    """Gray values of a normal likelihood: what is cast is the data, to the type of the pair."""
    torch.manual_seed(0)
    x = torch.randn(48, 6)
    actual = []
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(0)
        m = pv.models.VAE((6,), 2, "normal", NET)
        g = pv.guides.Guide(m, network=NET)
        if form == "float64 model":
            m.double(), g.double()
        values = x.to(dtype)
        if form == "data":
            values = pv.data.from_arrays(values, valid=8, test=0)
        if form == "loader":
            values = DataLoader(TensorDataset(values), batch_size=16)
        actual.append(without_seconds(fit((m, g), values).history))
        expected = torch.float64 if form == "float64 model" else torch.float32
        assert {p.dtype for p in m.parameters()} == {expected}
    assert actual[0] == actual[1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_pair_in_half_precision_is_refused_with_the_remedy(dtype):
    m, g = pair()
    with pytest.raises(pv.UserError, match=f"has {dtype} parameters.*precision='bf16'"):
        fit((m.to(dtype), g.to(dtype)))


def test_a_stated_fraction_of_labeled_data_is_not_counted_over():
    """Three quarters stated of data with a quarter: the classification term weighs a third."""
    torch.manual_seed(0)
    labels = torch.full((48,), -1)
    labels[:12] = torch.arange(12) % 3
    data = pv.data.from_arrays(X, labels, num_classes=3, valid=0, test=0)
    weight = {}
    for share in (None, 0.75):
        objective = pv.objectives.SemiSupervised(labelled_fraction=share)
        for _ in range(2):  # a second run counts again
            m = pv.models.M2((6,), 3, 2, network=NET)
            fit((m, pv.guides.Guide(m, network=NET)), data, objective=objective)
        weight[share] = objective.labelled_fraction
    assert weight == {None: 0.25, 0.75: 0.75}
    counted = pv.objectives.SemiSupervised()
    for kept, share in ((48, 1.0), (24, 0.5)):
        counted.count_labels(torch.arange(48).where(torch.arange(48) < kept, -1))
        assert counted.labelled_fraction == share


def test_a_frozen_baseline_that_was_never_trained_is_refused():
    c = torch.randn(48, 3)
    data = pv.data.from_arrays(X, c=c, valid=8, test=0)
    start = pv.train.BaselineInitialization(epochs=1)
    made = {}
    for name in ("frozen", "joint"):
        m = pv.models.CVAE((6,), (3,), 2, network=NET, baseline=name)
        made[name] = m, pv.guides.Guide(m, network=NET)
    with pytest.raises(pv.UserError, match="the frozen baseline was never trained: initialize="):
        fit(made["frozen"], data)
    fit(made["joint"], data)
    fit(made["frozen"], data, initialize=start)
    fit(made["frozen"], data)  # it is trained now
