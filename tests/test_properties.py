"""Bad input as properties: whatever is passed, an answer or one line of ours, and nothing else changes."""

import contextlib
import io
import math
import warnings

import numpy as np
import pyro
import pytest
import torch
from commands import main
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pyro_vae as pv
from pyro_vae import methods

FEW = settings(
    max_examples=30, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)  # fmt: skip

#: values of any kind, many of them wrong wherever they are passed
odd = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 4), st.floats(width=32), st.text(max_size=4),
    st.sampled_from([(), (0,), (2,), (2.5,), [1, -1], {}, {"z": "x"}, b"x", 1j]),
)  # fmt: skip
words = st.one_of(
    st.sampled_from(
        [
            "nan",
            "inf",
            "-1",
            "0",
            "1.5",
            "1e400",
            "[]",
            "[0]",
            "{}",
            "true",
            "null",
            "",
            "é",
            "[1,",
            "--",
            "x=y",
        ]
    ),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6),
)


def state():
    """What a call must leave as it was."""
    return (
        torch.get_default_dtype(), torch.get_num_threads(), torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(), torch.is_grad_enabled(), dict(pyro.get_param_store()),
        [f[:3] for f in warnings.filters], pyro.settings.get(),
    )  # fmt: skip


def answers_or_raises_one_line(call):
    """`call()`, or None where it raises an error of ours."""
    try:
        return call()
    except pv.UserError as error:
        assert "\n" not in str(error) and str(error)
        return None


def options_of(name):
    return sorted(key for key, value in methods.defaults(name).items())


@FEW
@given(data=st.data())
def test_an_option_of_the_command_line_is_read_or_refused_in_one_line(data, tmp_path_factory):
    """`--print-config` reads everything and trains nothing."""
    name = data.draw(st.sampled_from(sorted(methods.METHODS)))
    option = data.draw(st.sampled_from(options_of(name)) | words)
    argv = ["fit", name, f"--{option}", data.draw(words), "--print-config"]
    before, out, err = state(), io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(argv)
        except SystemExit as stop:  # of argparse
            status = stop.code
    assert status in (0, 1, 2), argv
    if status:
        assert err.getvalue().strip() and "Traceback" not in err.getvalue(), argv
        assert err.getvalue().count("\n") == 1, argv
    assert state() == before


@FEW
@given(
    name=st.sampled_from(["VAE", "CVAE", "MixtureVAE", "GMVAE", "M2", "HierarchicalVAE"]),
    data=st.data(),
)
def test_a_model_is_built_or_refused_in_one_line(name, data):
    kind = getattr(pv.models, name)
    first = [(4,), (3,)] if name == "CVAE" else [(4,)]
    parameters = ["latent_dim", "likelihood", "network", "prior", "num_components", "x_shape"]
    option, value = data.draw(st.sampled_from(parameters)), data.draw(odd)
    torch.manual_seed(0)
    if option == "x_shape":
        answers_or_raises_one_line(lambda: kind(value, *first[1:]))
        return
    try:
        answers_or_raises_one_line(lambda: kind(*first, **{option: value}))
    except TypeError as error:  # Python's own, of a parameter that the class does not have
        assert "unexpected keyword argument" in str(error)


@FEW
@given(
    option=st.sampled_from(
        ["given", "family", "network", "num_data", "input_scaling", "temperature", "discrete"]
    ),
    value=odd,
)
def test_a_guide_is_built_or_refused_in_one_line(option, value):
    torch.manual_seed(0)
    model = pv.models.MixtureVAE((4,), 2, 2, network=pv.conditionals.MLP((3,)))
    answers_or_raises_one_line(lambda: pv.guides.Guide(model, **{option: value}))


arrays = st.builds(
    lambda shape, kind, fill: np.full(shape, fill).astype(kind),
    st.sampled_from([(0,), (0, 4), (5, 4), (5, 3), (5, 4, 1), (4,), (), (1, 4)]),
    st.sampled_from(["f2", "f4", "f8", "i1", "u1", "i8", "u2", "?", "O", "U3", "c8", "M8[D]"]),
    st.sampled_from([0, 1, 2, 200]),
)
values = st.one_of(
    arrays, odd, st.just([[1, 2], [3]]), st.just(np.full((5, 4), np.nan)), st.just(np.full((5, 4), np.inf)),
    st.just(torch.zeros(5, 4).to_sparse()), st.just(torch.zeros(5, 4, dtype=torch.bfloat16)),
)  # fmt: skip


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    model = pv.models.VAE((4,), 2, "normal", pv.conditionals.MLP((3,)))
    return model, pv.guides.Guide(model, network=pv.conditionals.MLP((3,)))


@FEW
@given(x=values)
def test_any_array_is_data_or_refused_in_one_line(x):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = answers_or_raises_one_line(lambda: pv.data.from_arrays(x))
    if data is not None:
        assert data.train.x.is_floating_point() and data.train.x.isfinite().all()


@FEW
@given(x=values, evaluate=st.sampled_from(["elbo", "log_likelihood", "encode"]))
def test_any_array_is_evaluated_to_finite_numbers_or_refused_in_one_line(pair, x, evaluate):
    before = state()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = answers_or_raises_one_line(lambda: getattr(pv.evaluate, evaluate)(*pair, x))
    if result is not None:
        numbers = result["z"] if evaluate == "encode" else result
        assert len(numbers) == len(x) and numbers.isfinite().all()
    assert all(a == b for a, b in zip(state(), before, strict=True))


@settings(FEW, max_examples=30)
@given(
    option=st.sampled_from([
        "epochs", "lr", "batch_size", "schedule", "weight_decay", "clip_norm", "patience", "initialize",
        "observed", "device", "compile", "precision", "seed", "out", "resume", "config", "objective",
    ]),
    value=odd,
)  # fmt: skip
def test_an_argument_of_fit_trains_or_is_refused_in_one_line(
    option, value, tmp_path_factory, monkeypatch
):
    monkeypatch.chdir(tmp_path_factory.mktemp("fit"))
    torch.manual_seed(0)
    model = pv.models.VAE((4,), 2, "normal", pv.conditionals.MLP((3,)))
    guide = pv.guides.Guide(model, network=pv.conditionals.MLP((3,)))
    options = {"epochs": 1, "progress": False, "device": "cpu", "compile": False, option: value}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = answers_or_raises_one_line(lambda: pv.fit(model, guide, torch.rand(6, 4), **options))
    if run is not None:
        assert all(math.isfinite(row["loss"]) for row in run.history)
    for parameter in (*model.parameters(), *guide.parameters()):
        assert parameter.isfinite().all() and parameter.grad is None
