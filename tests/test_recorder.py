"""The graph of a recorded function computes what the function does, on other inputs and noise."""

import weakref

import numpy as np
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae.programs.recorder import record, replayed

X = torch.tensor([[0.5, -1.0, 2.0], [1.5, 0.25, -0.5]])
OTHER = torch.tensor([[-2.0, 3.0, 0.125], [0.75, -1.5, 4.0]])


def targets(graph):
    return [node.target for node in graph.graph.nodes if node.op == "call_function"]


def gradient_of_a_network(x):
    weight = torch.nn.Parameter(torch.ones(3, 2))
    loss = torch.nn.functional.softplus(x @ weight).exp().log_softmax(-1).sum()
    return torch.autograd.grad(loss, weight)[0]


def in_place(x):
    total = torch.zeros(3)
    for row in x.unbind():
        total += row
        total[1] *= row[0]
    return total.detach().mul_(2) + total


def several_results(x):
    values, places = x.max(-1)
    parts = torch.split(x, [1, 2], dim=-1)
    return values, places, torch.cat(parts[::-1], -1)


def noise(x):
    unused = torch.rand(2)  # the draws that follow depend on it
    del unused
    y = x + torch.randn_like(x)
    return torch.nn.functional.dropout(y, 0.5) + torch.empty_like(x).normal_()


def literals(x):
    rows = torch.tensor([1, 0])
    counter = torch.tensor(1.0)
    counter += 2.0  # of a copy, in every replay
    return x[rows] * torch.tensor([1.0, 2.0, 3.0]) + counter


def fixed_sizes(x):
    x = x.clone()
    x[x > 1] = 0.5
    x[x[:, 0] > 0] = torch.tensor([1.0, 2.0, 3.0])
    return x[:, torch.tensor([True, False, True])], x[:, torch.tensor([1.0, -1.0, 1.0]) > 0]


def known_values(x):
    scale = torch.tensor(2.0)
    scale = scale * 3 + torch.ones(())
    assert not scale.isnan().any()  # it looks at a number that is the same in each replay
    return x * scale.item() if scale > 0 else x


PROGRAMS = [gradient_of_a_network, in_place, several_results, noise, literals, fixed_sizes]
PROGRAMS += [known_values]


@pytest.mark.parametrize("function", PROGRAMS, ids=lambda f: f.__name__)
def test_the_graph_is_the_function_on_other_inputs(function):
    graph, reads = record(function, [X])
    for x in (X, OTHER, OTHER):
        results = []
        for call in (function, lambda x: graph(*reads, x)):
            torch.manual_seed(3)
            results.append((call(x.clone()), torch.rand(2)))
        torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)


@pytest.mark.parametrize("function", PROGRAMS[:-1], ids=lambda f: f.__name__)
def test_torchs_own_recorder_finds_the_same_operations(function):
    graph, _ = record(function, [X])
    expected = make_fx(function, _allow_non_fake_inputs=True)(X)
    expected.graph.eliminate_dead_code(lambda n: n.is_impure() or "rand" in str(n.target))
    # where a gradient is cut off, torch's has another name of the same tensor
    names = torch.ops.aten.alias.default, torch.ops.aten.detach.default
    left = [t for t in targets(expected) if t not in names]
    assert sorted(map(str, targets(graph))) == sorted(map(str, left))


def test_integers_from_outside_can_be_looked_at():
    sizes = torch.tensor([1, 2])
    graph, reads = record(lambda x: torch.cat(x.split(sizes.tolist(), -1)[::-1], -1), [X])
    assert torch.equal(graph(*reads, OTHER), OTHER[..., [1, 2, 0]])


def test_tensors_in_closures_are_read_where_they_are():
    weight, bias = torch.tensor([1.0, 2.0, 3.0]), torch.nn.Parameter(torch.ones(3))
    graph, reads = record(lambda x: (x * weight).sum() + (weight * bias).sum(), [X])
    assert [id(t) for t in reads] == [id(weight), id(bias)]
    with torch.no_grad():
        weight.mul_(2)
        bias.add_(1)
    assert graph(*reads, OTHER) == (OTHER * weight).sum() + (weight * bias).sum()


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x if x.sum() > 0 else -x,
        lambda x: x * x.max().item(),
        lambda x: x if torch.equal(x, 2 * x) else -x,
        lambda x: x * torch.zeros(()).copy_(x[0, 0]).item(),
        lambda x: x * torch.rand(()).item(),
        lambda x: x * torch.tensor([1.0, 2.0]).mul_(x[0, 0])[:1].item(),
        lambda x: x if x.numpy().sum() > 0 else -x,
        lambda x: x if np.asarray(x).sum() > 0 else -x,
        lambda x: x * x.tolist()[0][0],
    ],
    ids=["bool", "item", "equal", "copied", "drawn", "written", "numpy", "array", "tolist"],
)
def test_a_function_that_looks_at_a_value_is_refused(function):
    with pytest.raises(RuntimeError, match="the program looks at a value of its tensors"):
        record(function, [X])


VISIBLE = torch.tensor([True, False, True])  # it may be written in place between two replays


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[x > 0],
        lambda x: x[(x[:, 0] > 1).to(torch.uint8)],
        lambda x: x[:, VISIBLE],
        lambda x: x.masked_select(x > 0),
        lambda x: x.nonzero(),
        lambda x: torch.where(x > 0),
        lambda x: x.unique(),
        lambda x: x.unique(dim=0),
        lambda x: x.unique_consecutive(),
        lambda x: (x > 0).long().flatten().bincount(),
        lambda x: x.repeat_interleave((x[:, 0] > 1).long() + 1, 0),
        lambda x: x if len(x[x[:, 0] > 1]) > 0 else -x,
    ],
    ids=["mask", "uint8", "closure", "select", "nonzero", "where", "unique", "rows", "runs", "bincount",
         "repeat", "branch"],
)  # fmt: skip
def test_a_function_whose_sizes_depend_on_values_is_refused(function):
    with pytest.raises(RuntimeError, match="the size of a tensor depends on values"):
        record(function, [X])


def test_what_has_no_effect_is_left_out_and_what_writes_is_kept():
    buffer = torch.zeros(2)

    def function(x):
        x.exp().log()
        buffer.add_(x.sum(-1))
        return x + 1

    graph, reads = record(function, [X])
    buffer.zero_()
    graph(*reads, OTHER)
    assert torch.equal(buffer, OTHER.sum(-1))
    assert "exp" not in graph.code and "log" not in graph.code


def test_running_statistics_are_written():
    norm = torch.nn.BatchNorm1d(3)
    graph, reads = record(norm, [X])
    norm.reset_running_stats()
    actual = graph(*reads, OTHER)
    written = norm.running_mean.clone(), norm.running_var.clone()
    norm.reset_running_stats()
    assert torch.equal(actual, norm(OTHER))
    assert torch.equal(written[0], norm.running_mean) and torch.equal(written[1], norm.running_var)


def test_autocast_casts_a_weight_in_every_replay():
    weight = torch.nn.Parameter(torch.randn(3, 3))
    with torch.autocast("cpu", torch.bfloat16):
        torch.mm(X, weight)  # autocast keeps the weight in bfloat16
        graph, reads = record(lambda x: torch.mm(x, weight), [X])
        assert [id(t) for t in reads] == [id(weight)]
        with torch.no_grad():
            weight.mul_(2)
        assert torch.is_autocast_cache_enabled()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(graph(*reads, OTHER), torch.mm(OTHER, weight))


def test_recording_keeps_no_tensor_alive_that_the_function_has_dropped():
    seen, alive = [], []

    def function(x):
        for i in range(20):
            x = x + i
            seen.append(weakref.ref(x))
            alive.append(sum(ref() is not None for ref in seen))
        return x.sum()

    record(function, [torch.zeros(7, 11)])
    assert max(alive) < 5


def test_a_function_without_inputs_reads_its_tensors_in_order():
    a, b, c = torch.tensor([1.0]), torch.tensor([2.0]), torch.tensor([4.0])
    graph, reads = record(lambda: (a - b) * c, [])
    assert [id(t) for t in reads] == [id(a), id(b), id(c)] and graph(*reads) == -4
    c.fill_(8.0)
    assert graph(*reads) == -8


# ---------------------------------------------------------------------------------- replays


def test_a_replay_gives_the_functions_numbers_and_does_not_call_it():
    calls = []

    def function(x):
        calls.append(x)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            noisy = (x + torch.randn_like(x)).exp().sum()
            return torch.autograd.grad(noisy, x)

    torch.manual_seed(5)
    replay = replayed(function, [X], [OTHER], device=X.device)
    first = torch.rand(1)  # recording has left the random stream
    count = len(calls)
    results = []
    for call in (replay, function):
        torch.manual_seed(5)
        results.append((torch.rand(1), *call(3 * X)))
    assert first == results[0][0] and all(map(torch.equal, *results))
    assert len(calls) == count + 1 and not results[0][1].requires_grad


def test_a_replay_takes_any_layout_and_any_shape():
    def function(x):
        return (x.reshape(-1).flip(0).exp(), x.t().reshape(-1) * x.shape[0])

    inputs = [X, X.t().contiguous().t(), X[:1].expand(2, 3), torch.cat([X, X]), X.double()]
    for first in inputs[:3]:
        replay = replayed(function, [first], device=X.device)
        assert replay is not function
        for x in inputs:
            assert all(map(torch.equal, replay(x), function(x)))


def counting(x, count=[0]):  # noqa: B006, a number that changes from call to call
    count[0] += 1
    return (x + count[0],)


@pytest.mark.parametrize(
    "function",
    [counting, lambda x: (x if x.sum() > 0 else -x,), lambda x: (x[: len(x) - int(x[0, 0] > 1)],)],
    ids=["counter", "branch", "shape"],
)
def test_a_function_that_cannot_be_replayed_is_called_itself(function):
    assert replayed(function, [X], [OTHER], device=X.device) is function
