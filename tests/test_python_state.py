"""Which Python values of a program are seen, and what a trial run leaves of them."""

import collections
import dataclasses
import functools
import math
import random
import types
import warnings
import weakref

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn as nn

import pyro_vae as pv
from pyro_vae.programs.python_state import PythonState
from pyro_vae.train.steps.recorded import _ParameterSlots

SETTINGS = types.ModuleType("settings")
SETTINGS.rate = 1.0
DEFAULTS = {"rate": 1.0}


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.steps, self.size, self.name, self.options = 0, 0, "first", {"rate": 0.5}
        self.flag, self.weights, self.tensor = False, [1.0, 2.0], torch.zeros(2)


def test_a_change_of_any_plain_value_is_seen_and_a_change_back_too():
    layer = Layer()
    outer = nn.Sequential(nn.Dropout(0.5), layer)
    numbers = {"k": 1}
    program = functools.partial(lambda x, k: outer(x) * numbers["k"], k=2)
    state = PythonState(program)
    first = state.values()

    def changes(container, name, value):
        before = container[name]
        container[name] = value
        seen = state.values() != first
        container[name] = before
        assert state.values() == first
        return seen

    assert changes(vars(outer[0]), "p", 0.1) and changes(vars(layer), "name", "second")
    assert changes(vars(layer), "flag", True) and changes(layer.options, "rate", 0.1)
    assert changes(layer.weights, 1, 3.0) and changes(numbers, "k", 2)
    assert changes(program.keywords, "k", 3)
    assert not changes(vars(layer), "tensor", torch.ones(2))  # a recording reads it by reference
    outer.eval()  # part of the key of a recording anyway
    assert state.values() == first
    layer.added = 1.0
    assert state.values() != first


def test_attributes_of_functions_and_entries_of_arrays_and_deques_are_seen():
    array, recent = np.ones((2, 2)), collections.deque([1.0, 2.0])

    def program(x):
        return x * program.weight * array[1, 0] * recent[1]

    program.weight = 1.0
    state = PythonState(program)
    first = state.values()
    program.weight = 2.0
    assert state.values() != first
    program.weight, array[1, 0] = 1.0, 3.0
    assert state.values() != first
    array[1, 0], recent[1] = 1.0, 3.0
    assert state.values() != first
    recent[1] = 2.0
    assert state.values() == first
    recent.append(3.0)
    assert state.values() != first


def test_an_array_with_nan_is_the_same_until_it_is_changed():
    array = np.array([1.0, np.nan])
    state = PythonState(lambda x: x * array[0])
    first = state.values()
    state.mark()
    assert state.values() == first and state.changed() is None
    array[0] = 2.0
    assert state.values() != first


def test_what_an_objective_gives_as_schedule_values_is_read_as_tensors():
    class OfAUser(pv.objectives.Objective):
        def __init__(self):
            self.weight, self.other = 1.0, 1.0

        def schedule_values(self):
            return {"weight": self.weight}

    for objective, name in ((pv.objectives.ELBO(warmup=1), "beta"), (OfAUser(), "weight")):
        state = PythonState(objective)
        first = state.values()
        setattr(objective, name, 0.5)
        assert state.values() == first
        setattr(objective, "num_particles" if name == "beta" else "other", 3)
        assert state.values() != first


def test_attributes_of_an_objective_are_seen_and_its_epoch_is_not():
    class OfAUser:
        weight = 1.0

        def differentiable_loss(self, model, guide, x):
            return self.weight * x.sum()

    hybrid = pv.objectives.Hybrid(alpha=0.5)
    user = OfAUser()
    for objective, holder, name in (
        (pv.objectives.ELBO(beta={"z": 1.0}), lambda o: o.beta, "z"),
        (pv.objectives.ELBO(free_bits={"z": 1.0}), lambda o: o.free_bits, "z"),
        (pv.objectives.Renyi(0.5), vars, "alpha"),
        (hybrid, lambda o: vars(o.gsnn), "beta"),
        (pv.objectives.objective.as_objective(user), lambda o: vars(user), "weight"),
    ):
        state = PythonState(objective)
        first = state.values()
        objective.epoch = 3.0
        with objective.with_schedule_values({}):
            assert state.values() == first
        holder(objective)[name] = 0.25
        assert state.values() != first


def test_a_trial_restores_counters_and_random_streams_and_keeps_what_changed_once():
    layer = Layer()
    state = PythonState(layer)
    random.seed(0), np.random.seed(0)
    expected = random.random(), np.random.rand()
    random.seed(0), np.random.seed(0)
    with state.trial():
        for _ in range(3):
            state.mark()
            layer.steps, layer.size, layer.name = layer.steps + 1, 5, "second"
            random.random(), np.random.rand()
            assert state.changed() in ("Layer.steps", "Layer.size")
    assert (layer.steps, layer.size, layer.name) == (0, 5, "second")
    assert (random.random(), np.random.rand()) == expected


class RunningMean(nn.Module):
    """An encoder that subtracts a running mean of its data, kept in one of several ways."""

    def __init__(self, way):
        super().__init__()
        self.way, self.is_ready = way, False
        if way in ("attribute", "attribute in place"):
            self.mean = torch.zeros(2)
        else:
            self.register_buffer("mean", torch.zeros(2))
        self.layer = nn.Linear(2, 1)

    def update(self, x):
        batch = x.mean(0)
        if self.way == "initialized once":
            if not self.is_ready:
                self.mean.copy_(batch)
                self.is_ready = True
        elif self.way in ("in place", "attribute in place"):
            self.mean.mul_(0.9).add_(0.1 * batch)
        elif self.way == "data":
            self.mean.data = 0.9 * self.mean.data + 0.1 * batch
        else:
            self.mean = 0.9 * self.mean + 0.1 * batch

    def forward(self, x):
        if self.training:
            self.update(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.layer(x - self.mean), 1.0).to_event(1))


class OfOneNumber(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 2)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.layer(z), 1.0).to_event(1), obs=x)


@pytest.mark.parametrize("compile", [False, "recorded"])
@pytest.mark.parametrize(
    "way",
    ["in place", "replaced", "data", "attribute", "attribute in place", "initialized once"],
)
def test_a_running_mean_is_of_the_training_steps_alone(way, compile, tmp_path):
    """Not of trial runs; resumed, it goes on. Guides train as they do by SVI."""
    torch.manual_seed(0)
    x = torch.randn(20, 2) + 5

    def trained(**options):
        torch.manual_seed(1)
        model, guide = OfOneNumber(), RunningMean(way)
        pv.fit(
            model, guide, x, 6, batch_size=20, lr=0.01, compile=compile, progress=False, **options,
        )  # fmt: skip
        return guide

    expected = x.mean(0) if way == "initialized once" else x.mean(0) * (1 - 0.9**6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some ways cannot be recorded
        guide = trained()
        torch.testing.assert_close(guide.mean, expected)
        if "attribute" in way or way == "initialized once":  # not in a checkpoint of weights
            return
        out = tmp_path / "run"
        trained(out=out, callbacks=[lambda run, metrics: metrics["epoch"] == 2])
        resumed = trained(out=out, resume=True)
    torch.testing.assert_close(resumed.mean, expected)
    torch.testing.assert_close(resumed.layer.weight, guide.layer.weight, atol=0, rtol=0)


class Stateful(RunningMean):
    """A guide whose state a test says: `setup` makes it, `update` is called in training."""

    def __init__(self, setup, update):
        super().__init__("stateful")
        setup(self)
        self.own_update = update

    def update(self, x):
        self.own_update(self, x)


def counts_first(guide, x):
    if guide.number == 0:
        guide.mean, guide.number = x.mean(0), 1


def names_first(guide, x):
    if guide.state == "cold":
        guide.mean.copy_(x.mean(0))
        guide.state = "warm"


def keeps_first(guide, x):
    if guide.center is None:
        guide.center = x.mean(0)
        guide.mean = guide.center.clone()


def asks_parent(guide, x):
    if not guide.flags["ready"]:
        guide.mean, guide.flags["ready"] = x.mean(0), True


def listed(guide, x):
    if not guide.entries:
        guide.entries.append(1)
        guide.mean = x.mean(0)
    assert len(guide.entries) == 1


def of_size(guide, x):
    if guide.number != len(x):
        guide.mask, guide.number = torch.ones(len(x)), len(x)
    assert len(guide.mask) == len(x)
    guide.mean = x.mean(0) * guide.mask[0]


@pytest.mark.parametrize("compile", [False, "recorded"])
@pytest.mark.parametrize(
    "update", [counts_first, names_first, keeps_first, asks_parent, listed, of_size]
)
def test_what_only_the_first_run_does_stays_done(update, compile):
    def setup(guide):
        guide.number, guide.state, guide.center, guide.entries = 0, "cold", None, []
        guide.flags, guide.mask = {"ready": False}, torch.zeros(0)

    torch.manual_seed(0)
    x, guide = torch.randn(20, 2) + 5, Stateful(setup, update)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some cannot be recorded
        pv.fit(OfOneNumber(), guide, x, 4, batch_size=20, compile=compile, progress=False)
        torch.testing.assert_close(guide.mean, x.mean(0))
        # and batches of two sizes
        pv.fit(OfOneNumber(), guide, x, 2, batch_size=8, compile=compile, progress=False)


def inference_tensor():
    with torch.inference_mode():
        return torch.ones(3)


@pytest.mark.parametrize(
    "tensor",
    [
        inference_tensor(),
        torch.empty(3, device="meta"),
        torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        torch.tensor(math.nan).expand(5),
        torch.ones(2, 2).to_sparse(),
        torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
    ],
    ids=["inference", "meta", "nested", "expanded", "sparse", "quantized"],
)
def test_odd_tensors_are_left_alone(tensor):
    guide = Stateful(lambda guide: setattr(guide, "odd", tensor), lambda guide, x: None)
    pv.fit(OfOneNumber(), guide, torch.randn(20, 2), 1, batch_size=20, progress=False)
    assert guide.odd is tensor


@pytest.mark.parametrize("kind", [list, collections.deque, dict, set])
def test_a_container_that_grows_in_every_run_is_a_reason_against_a_recording(kind):
    log = kind()

    def program(x):
        if kind in (list, collections.deque):
            log.append(x)
        elif kind is dict:
            log[len(log)] = x
        else:
            log.add(x)

    state = PythonState(program)
    state.mark()
    program(torch.ones(2))
    assert state.changed() == f"the length of a {kind.__name__}"


def test_entries_that_are_replaced_are_no_reason_against_a_recording():
    kept = {"h": torch.zeros(2)}

    def program(x):
        kept["h"] = x

    state = PythonState(program)
    state.mark()
    program(torch.ones(2))
    assert state.changed() is None


def test_a_container_that_cannot_say_its_length_is_passed_over():
    class Broken(list):
        def __len__(self):
            raise RuntimeError("no length")

    layer = nn.Linear(1, 1)
    layer.log = Broken()
    state = PythonState(layer)
    state.mark()
    assert state.changed() is None


def test_random_draws_of_python_and_numpy_are_seen():
    state = PythonState(Layer())
    for draw, name in ((random.random, "Python"), (np.random.rand, "numpy")):
        with state.trial():
            assert state.changed() is None
            draw()
            assert state.changed() == f"the random stream of {name}"


@dataclasses.dataclass(slots=True)
class Slots:
    rate: float = 1.0


class Reader:
    slots, pair = Slots(), ({"rate": 1.0}, torch.zeros(2))

    @property
    def rate(self):
        return SETTINGS.rate


def with_default(x, options=DEFAULTS, *, more=DEFAULTS):
    return x * options["rate"]


@pytest.mark.parametrize(
    ("program", "change"),
    [
        (Reader(), lambda rate: setattr(Reader.slots, "rate", rate)),
        (Reader(), lambda rate: Reader.pair[0].update(rate=rate)),
        (Reader(), lambda rate: setattr(SETTINGS, "rate", rate)),
        (with_default, lambda rate: DEFAULTS.update(rate=rate)),
        (lambda x: x * SETTINGS.rate, lambda rate: setattr(SETTINGS, "rate", rate)),
    ],
    ids=["slots", "tuple", "property", "default", "module"],
)
def test_values_in_unusual_places_are_seen(program, change):
    state = PythonState(program)
    first = state.values()
    change(2.0)
    assert state.values() != first
    change(1.0)
    assert state.values() == first


class Broken:
    @property
    def __class__(self):
        raise ReferenceError("no class")


class Mortal:
    pass


def dead_proxy():
    return weakref.proxy(Mortal())


@pytest.mark.parametrize(
    "make",
    [Broken, dead_proxy, lambda: np.zeros(2, dtype=[("a", float)])[0]],
    ids=["class", "dead", "void"],
)
def test_an_odd_attribute_is_left_alone(make):
    layer = nn.Linear(1, 1)
    vars(layer)["odd"] = make()
    layer.rate = 1.0
    state = PythonState(layer)
    first = state.values()
    hash(first)
    layer.rate = 2.0
    assert state.values() != first
    with state.trial():
        state.mark()


def test_no_entry_is_made_in_a_defaultdict():
    layer = nn.Linear(1, 1)
    layer.log = collections.defaultdict(list, a=[1])
    state = PythonState(layer)
    layer.log.clear()
    state.values()
    assert dict(layer.log) == {}


def test_all_modules_are_seen():
    layers = nn.Sequential(*(nn.Dropout(0.5) for _ in range(1100)))
    state = PythonState(layers)
    first = state.values()
    layers[-1].p = 0.1
    assert state.values() != first


class MadeInTheFirstStep(nn.Module):
    """A counter says whether the layer is there."""

    def __init__(self):
        super().__init__()
        self.num_calls = 0

    def forward(self, x):
        if self.training and self.num_calls == 0:
            self.layer = nn.Linear(2, 3)
            self.start = self.layer.weight.detach().clone()
        self.num_calls += self.training
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.layer(z), 1.0).to_event(1), obs=x)


def test_a_layer_that_a_counter_guards_is_made_once_and_trained():
    model = MadeInTheFirstStep()
    model.layer = nn.Linear(2, 3)  # of evaluation mode

    def mean_field(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))

    x = torch.randn(32, 3, generator=torch.Generator().manual_seed(0))
    pv.fit(model, mean_field, x, 3, batch_size=8, compile=False, progress=False)
    assert not torch.equal(model.layer.weight, model.start)


def test_memory_that_a_buffer_had_is_held_while_its_address_counts():
    """Freed, it could be that of a later value of the buffer, and the change would not be seen."""
    array = np.zeros(4, np.float32)
    module = nn.BatchNorm1d(4)
    module.running_mean.data = torch.from_numpy(array)
    slots, memory = _ParameterSlots([module]), weakref.ref(array)
    assert slots.unchanged()
    module.running_mean.data = torch.ones(4)
    del array
    assert memory() is not None and not slots.unchanged()


@pytest.mark.parametrize("compile", [False, "recorded"])
def test_a_wide_running_mean_that_is_replaced_is_of_every_step(compile):
    x = torch.randn(20, 1000) + 5

    class Mean(RunningMean):
        def __init__(self):
            super().__init__("data")
            self.layer = nn.Linear(1000, 1)
            self.mean = nn.Buffer(torch.zeros(1000))

    class Model(OfOneNumber):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(1, 1000)

    guide = Mean()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it cannot be recorded
        pv.fit(Model(), guide, x, 6, batch_size=20, lr=1e-3, compile=compile, progress=False)
    torch.testing.assert_close(guide.mean, x.mean(0) * (1 - 0.9**6))
