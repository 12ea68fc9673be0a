"""The private names of Pyro and torch that the library uses exist, and do what it expects of them."""

import copy
import logging
import os
import platform
import re
import resource
import subprocess
import sys
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoNormal

import pyro_vae as pv
from pyro_vae import _pyro_internals as pyro_internals
from pyro_vae import _torch_internals as torch_internals
from pyro_vae.programs.backends import has_compiler
from pyro_vae.programs.recorder import record

X = torch.tensor([0.5, -1.0, 2.0])


def model(x):
    with pyro.plate("data", len(x), subsample_size=len(x)):
        y = pyro.sample("y", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.deterministic("twice", 2 * z)
        pyro.sample("x", dist.Normal(z + y, 1.0), obs=x)


PRIVATE = (
    r"^\s*(from|import) (pyro|torch)\b.*[ .]_\w",  # a private module or name of either
    r"\b(pyro|torch|runtime)(\.\w+)*\._[a-zA-Z]",
    r"\._(pyro_(?!sample|post_sample|internals)\w+|num_component|categorical|params|schema|mask)\b",
    r"\"_(enumerate_dim|markov_scope|deterministic|categorical|num_component)\"",
)


def test_no_other_file_touches_a_private_name():
    package = Path(pv.__file__).parent
    actual = {
        f"{file.relative_to(package)}: {line.strip()}"
        for file in package.rglob("*.py")
        for line in file.read_text().splitlines()
        if any(re.search(pattern, line) for pattern in PRIVATE)
    }
    assert all(line.startswith(("_pyro_internals", "_torch_internals")) for line in actual)
    assert actual  # the patterns find what is there


def test_sites_of_plates_and_deterministic_values_are_marked():
    nodes = poutine.trace(model).get_trace(X).nodes
    assert isinstance(nodes["data"]["fn"], pyro_internals.SubsampleDistribution)
    assert not isinstance(nodes["z"]["fn"], pyro_internals.SubsampleDistribution)
    assert nodes["twice"]["infer"].get(pyro_internals.DETERMINISTIC)
    assert not nodes["z"]["infer"].get(pyro_internals.DETERMINISTIC)
    pruned = pyro_internals.prune_subsample_sites(poutine.trace(model).get_trace(X))
    assert "data" not in pruned.nodes and "z" in pruned.nodes


def test_an_enumerated_site_names_its_dimension():
    enumerated = poutine.enum(model, first_available_dim=-2)
    site = poutine.trace(enumerated).get_trace(X).nodes["y"]
    assert site["infer"][pyro_internals.ENUMERATE_DIM] == -2 and site["value"].shape == (2, 1)


def test_markov_names_its_scope():
    def chain():
        for i in pyro.markov(range(2)):
            pyro.sample(f"z{i}", dist.Normal(0.0, 1.0))

    site = poutine.trace(chain).get_trace().nodes["z1"]
    assert pyro_internals.MARKOV_SCOPE in site["infer"]


def test_pyros_particles_are_in_the_plate_of_this_name():
    frames = []

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Bernoulli(0.3))
            frames.extend(pyro.sample("z", dist.Normal(0.0, 1.0), infer={}).shape)

    elbo = Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1)
    traces = [t for pair in elbo._get_traces(model, guide, (X,), {}) for t in pair]
    stack = traces[0].nodes["z"]["cond_indep_stack"]
    assert pyro_internals.PARTICLES in [frame.name for frame in stack] and frames[:2] == [4, 3]


def test_a_handled_function_is_a_bound_partial():
    assert isinstance(poutine.block(model), pyro_internals.BoundPartial)


def test_a_log_prob_is_scaled_and_masked_as_at_a_site():
    value = pyro_internals.scale_and_mask(X, 3.0, torch.tensor([True, False, True]))
    assert torch.equal(value, torch.tensor([1.5, 0.0, 6.0]))
    assert torch.equal(pyro_internals.sum_rightmost(torch.ones(2, 3, 4), 2), torch.full((2,), 12.0))
    masked = dist.Normal(0.0, 1.0).expand([2]).mask(torch.tensor([True, False]))
    assert torch.equal(pyro_internals.mask_of(masked), torch.tensor([True, False]))


def test_a_view_knows_whose_it_is_and_an_attribute_stays():
    """Also where nothing in Python refers to the base any more, as after `enumerate_support`."""

    def view():
        base = torch.eye(3)
        base.marked = True
        return base.view(3, 1, 3).reshape(3, 1, 1, 3)

    assert torch_internals.base_of(view()).marked
    assert torch_internals.base_of(torch.eye(3)) is None


def test_torchs_multivariate_normal_takes_its_factor_from_one_name():
    class Half(torch_internals.NormalOfLazyFactor):
        arg_constraints = {}

        def factor(self):
            made.append(1)
            return 0.5 * torch.eye(2)

    made, q = [], Half.__new__(Half)
    q.loc = torch.zeros(2)
    q.set_shapes(torch.Size(), 2, None)
    assert not made
    assert torch.equal(q.covariance_matrix, 0.25 * torch.eye(2))
    assert torch.equal(q.variance, torch.full((2,), 0.25)) and made == [1]


def test_svi_is_seen_to_collect_parameters():
    seen = []

    def collected(x):
        seen.append(pyro_internals.svi_is_collecting())
        pyro.sample(
            "x",
            dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0).expand([3]).to_event(1),
            obs=x,
        )

    pyro.clear_param_store()
    SVI(collected, lambda x: None, pyro.optim.Adam({}), Trace_ELBO()).step(X)
    assert True in seen
    collected(X)
    assert seen[-1] is False
    assert pyro_internals.stored_parameters()["loc"].is_leaf
    pyro.clear_param_store()


def test_a_pair_runs_unseen_in_the_midst_of_another():
    def outer():
        with pyro.plate("data", 3), pyro_internals.isolated_pyro_runtime():
            inner = poutine.trace(poutine.enum(model, first_available_dim=-2)).get_trace(X)
            assert [f.dim for f in inner.nodes["z"]["cond_indep_stack"]] == [-1]
        return pyro.sample("after", dist.Normal(0.0, 1.0))

    assert set(poutine.trace(outer).get_trace().nodes) == {"_INPUT", "data", "after", "_RETURN"}


def test_an_autoguide_is_set_up_before_its_first_call():
    auto = AutoNormal(poutine.block(model, hide=["y"]))
    assert pyro_internals.prototype_of(auto) is None
    pyro_internals.set_up(auto, x=X)
    assert "z" in pyro_internals.prototype_of(auto).nodes
    assert dict(auto.named_parameters())["locs.z_unconstrained"].shape == (3,)
    pyro.clear_param_store()


def test_pyros_enumeration_has_the_same_loss_without_a_host_sync():
    scale = torch.tensor(2.0, requires_grad=True)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, scale))

    losses = []
    for context in (torch.enable_grad, pyro_internals.pyro_without_host_sync):
        torch.manual_seed(0)
        with context():
            loss = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(model, guide, X)
        losses.append([loss, *torch.autograd.grad(loss, [scale])])
    assert all(map(torch.equal, *losses))


# ---------------------------------------------------------------------------- torch


def test_every_batch_norm_is_known():
    kinds = (
        torch.nn.BatchNorm1d,
        torch.nn.BatchNorm2d,
        torch.nn.BatchNorm3d,
        torch.nn.SyncBatchNorm,
    )
    assert all(issubclass(kind, torch_internals.BatchNorm) for kind in kinds)


@pytest.mark.parametrize("training", [True, False])
def test_the_arguments_that_an_operation_writes_are_seen(training):
    written = []

    class Look(torch_internals.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            written.extend(torch_internals.written_arguments(func, args, kwargs or {}))
            return func(*args, **(kwargs or {}))

    norm, counted = torch.nn.BatchNorm1d(3).train(training), torch.zeros(2)
    with Look():
        norm(torch.randn(4, 3))
        counted.add_(1)
        counted + 1
    ids = {id(t) for t in written}
    assert id(counted) in ids and {id(norm.running_mean), id(norm.running_var)} <= ids


def test_the_slots_and_leaves_of_a_module():
    norm = torch.nn.BatchNorm1d(3)
    parameters, buffers = torch_internals.tensor_slots(norm)
    assert set(parameters) == {"weight", "bias"} and "running_mean" in buffers
    loss = (2 * norm.weight).sum()
    (node, _), *_ = loss.grad_fn.next_functions
    assert torch_internals.leaf_of(node) is None
    (leaf, _), *_ = node.next_functions
    assert torch_internals.leaf_of(leaf) is norm.weight


def test_a_copy_with_separate_modules_leaves_the_original():
    first = torch.nn.Sequential(torch.nn.Linear(1, 1))
    second = copy.copy(first)
    torch_internals.with_separate_modules(second)
    second.add_module("1", torch.nn.Tanh())
    assert len(first) == 1 and len(second) == 2


def test_what_is_within_a_distribution():
    one_hot = dist.OneHotCategorical(logits=torch.zeros(4))
    assert isinstance(torch_internals.categorical_of(one_hot), torch.distributions.Categorical)
    assert torch_internals.categorical_of(dist.Normal(0.0, 1.0)) is None
    mixture = dist.MixtureSameFamily(
        dist.Categorical(logits=torch.zeros(4)), dist.Normal(torch.zeros(4), 1.0)
    )
    assert torch_internals.num_components(mixture) == 4
    assert torch_internals.num_components(one_hot) == 1
    assert isinstance(mixture.support, torch_internals.MixtureSameFamilyConstraint)
    assert mixture.support.base_constraint is dist.constraints.real


def test_touching_the_constant_table_changes_no_value_and_draws_nothing():
    torch_internals.touch_constant_table.cache_clear()
    state, before = torch.get_rng_state(), torch.log1p(X.abs())
    torch_internals.touch_constant_table()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(torch.log1p(X.abs()), before)
    assert torch.equal(torch.log1p(torch.tensor([-0.0])).signbit(), torch.tensor([True]))


@pytest.mark.skipif(not has_compiler(), reason="there is no C++ compiler")
def test_a_compiled_graph_is_kept_on_disk_for_the_next_process():
    from torch._dynamo.utils import counters

    hits = []
    for _ in range(2):
        graph, _ = record(lambda x: (x * 1.25).exp().sum(), [X])
        program = torch_internals.compile_graph(graph, [X])
        torch.testing.assert_close(program(X), (X * 1.25).exp().sum())
        hits.append(counters["inductor"]["fxgraph_cache_hit"])
    assert hits[1] == hits[0] + 1


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator than glibc's")
def test_memory_that_was_freed_is_used_again():
    """In a fresh process, the kernel fills no page of a freed tensor with zeros again."""
    script = """
import resource, torch
from pyro_vae import _torch_internals
_torch_internals.keep_freed_memory()
torch.set_num_threads(1)
x = torch.ones(2 * 2**20)  # 8 MiB

def work(times):
    for _ in range(times):
        y, z = x + x, x * x
        (y * z).sum()
        del y, z

work(2)  # these pages are filled in any case, by how much depends on what the heap held before
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work(10)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("GLIBC", "MALLOC"))}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    pages_of_one = 8 * 2**20 // resource.getpagesize()
    assert int(done.stdout) < 10 * pages_of_one  # 30 tensors where each is filled anew


def test_compiling_repeats_no_warning_of_torchs_own_work(monkeypatch, capfd):
    from torch._inductor import compile_fx

    def noisy(graph, inputs, **options):
        logging.getLogger("torch._inductor.ir").warning("an operation has no c-shim")
        return graph

    monkeypatch.setattr(compile_fx, "compile_fx", noisy)
    torch_internals._compile(len, [], {})
    assert "c-shim" not in capfd.readouterr().err
    noisy(len, [])
    assert "c-shim" in capfd.readouterr().err  # the log has its level again
