"""The digest of programs and options: another one wherever they compute something else."""

import datetime
import decimal
import functools
import subprocess
import sys
import types

import numpy as np
import pyro
import pytest
import torch

import pyro_vae as pv
from pyro_vae.conditionals import MLP, DiscretizedLogistic, NormalLikelihood, StudentT
from pyro_vae.programs.identity import identity

NET = MLP((4,))
SLOPE = 2.0


def vae(likelihood, seed=0):
    torch.manual_seed(seed)
    return pv.models.VAE((4,), 1, likelihood, NET)


def m2_guide(**options):
    torch.manual_seed(0)
    return pv.guides.Guide(pv.models.M2((4,), 3, 1, network=NET), network=NET, **options)


def line(slope):
    def model(x):
        return slope * x + SLOPE

    return model


def settings_of(value):
    module = types.ModuleType("own_settings")
    module.rate, module.unread = value, value
    return module


def reads_settings(value):
    scope = {"settings": settings_of(value), "__name__": "own"}
    exec("def model(x):\n    return x * settings.rate", scope)
    return scope["model"]


class Named(decimal.Decimal):
    """Of C, within a class of Python."""


class Holder:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value


OTHERS = {
    "a fixed scale": lambda v: vae(NormalLikelihood(scale=1.0 + v)),
    "degrees of freedom": lambda v: vae(StudentT(df=3.0 + v)),
    "levels": lambda v: vae(DiscretizedLogistic(5 + v)),
    "weights": lambda v: vae("normal", seed=v),
    "the sign of weights": lambda v: torch.full((3,), 1.0 - 2 * v),
    "a discrete latent": lambda v: m2_guide(discrete=("enumerate", "score_function")[v]),
    "a temperature": lambda v: m2_guide(discrete="relaxed", temperature=0.5 + v),
    "what a function has closed over": line,
    "a tensor that a function has closed over": lambda v: line(torch.tensor([v])),
    "a default": lambda v: lambda x, y=v: x + y,
    "a constant of code": lambda v: (lambda x: x + 1, lambda x: x + 2)[v],
    "an attribute of a method's object": lambda v: types.MethodType(lambda self: self, Holder(v)),
    "a slot": Holder,
    "a partial": lambda v: functools.partial(print, v),
    "a setting of Pyro's bound": lambda v: pyro.infer.Trace_ELBO(num_particles=1 + v),
    "a setting of an objective": lambda v: pv.objectives.ELBO(beta=1.0 + v),
    "a frozen parameter": lambda v: torch.nn.Parameter(torch.zeros(2), requires_grad=bool(v)),
    "the middle of a long tensor": lambda v: torch.zeros(5000).index_fill(0, torch.tensor(2500), v),
    "an array of objects": lambda v: np.array([v, "a"], dtype=object),
    "the order of rows": lambda v: pv.data.from_arrays(np.eye(8)[:: 1 - 2 * v]),
    "a setting in another module": reads_settings,
    "a set": lambda v: {"a", "b", v},
    "the state of a generator": lambda v: torch.Generator().manual_seed(v),
    "the state of numpy's generator": np.random.default_rng,
    "a date": lambda v: line(datetime.date(2020, 1, 1 + v)),
    "a number of a class of its own": lambda v: Named(v),
    "a cell of a frame": lambda v: pytest.importorskip("pandas").DataFrame({"a": [0, v]}),
    "a cell of a frame of polars": lambda v: pytest.importorskip("polars").DataFrame({"a": [v]}),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_what_computes_something_else_has_another_digest(name):
    first, again, other = (identity(OTHERS[name](v)) for v in (0, 0, 1))
    assert first == again != other


def test_globals_and_signs_count(monkeypatch):
    before = identity(line(1.0))
    assert identity(line(1.0)) == before
    monkeypatch.setitem(globals(), "SLOPE", 3.0)
    assert identity(line(1.0)) != before


def test_cycles_end_and_a_file_is_never_the_same():
    cycle = []
    cycle.append(cycle)
    assert identity(cycle) == identity(cycle)
    with open(__file__) as file:
        assert identity(file) != identity(file)


def test_a_process_of_its_own_finds_the_same_digest():
    code = (
        "import torch, pyro_vae as pv; from pyro_vae.programs.identity import identity;"
        "torch.manual_seed(0); m = pv.models.M2((4,), 3, 1); f = lambda x, k={'a', 'b', 'c'}: m(x);"
        "print(identity(m, pv.guides.Guide(m), f, torch.optim.lr_scheduler.LambdaLR, open))"
    )
    calls = ([sys.executable, "-c", f"pad = {pad}; {code}"] for pad in ("[]", "[0] * 99999"))
    found = [subprocess.run(c, capture_output=True, text=True, check=True).stdout for c in calls]
    assert found[0] == found[1] and len(found[0].strip()) == 64
