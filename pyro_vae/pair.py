"""Any model/guide pair, this library's or a user's: how it is called, and what it is made of.

`Batch`es are dicts: `{"x": ..., "y": ..., "index": ...}`. A program gets from a batch what its
signature names; `x` goes to its first argument, whatever that is called.
"""

import functools
import inspect
import itertools
import types
from contextlib import contextmanager

import pyro
import torch
import torch.nn as nn
from pyro import poutine
from pyro.contrib.easyguide import EasyGuide
from pyro.infer.autoguide import AutoGuide
from pyro.poutine import runtime
from pyro.poutine.messenger import Messenger, _bound_partial

from .errors import UserError
from .program import Program
from .runtime import exclusive


def accepting(program):
    """`program`, as a function of a whole batch by keywords that ignores what it does not take."""
    parameters = parameters_of(program).values()
    names = {p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}

    def call(*args, **batch):
        x = args[0] if args else batch.get("x")
        extra = {k: v for k, v in batch.items() if k in names and k != "x"}
        if "x" in names or x is None:
            return program(**({"x": x} if "x" in names else {}), **extra)
        return program(x, **extra)

    call.stands_for = program, ""  # see `programs.layout`
    call.program_arguments = parameters_of(program)
    return call


def as_batch(program, args, kwargs):
    """What a program is called with, as a batch: its first argument is x, whatever it is called."""
    names = list(parameters_of(program))
    batch = {**dict(zip(names, args, strict=False)), **kwargs}
    if "x" not in batch and names and names[0] in batch:
        batch["x"] = batch.pop(names[0])
    return batch


def parameters_of(program):
    """`{name: parameter}` of what a program's forward takes; Pyro's own guides take what the model does."""
    if isinstance(program, (AutoGuide, EasyGuide)):
        return parameters_of(program.model)
    bound = 0
    while isinstance(program, functools.partial):  # Pyro's handlers hide what they wrap
        if isinstance(program, _bound_partial):
            program = program.func
        elif len(program.args) > 1 and isinstance(program.args[0], Messenger):
            bound += len(program.args) - 2
            program = program.args[1]
        else:
            break
    parameters = getattr(program, "program_arguments", None)
    if parameters is None:
        parameters = inspect.signature(getattr(program, "forward", program)).parameters
    return dict(itertools.islice(parameters.items(), bound, None))


def takes(program, name):
    """Whether a program's signature names `name`."""
    return name in parameters_of(program)


def covariates_of(model):
    """`{name: event shape}` of what a conditional model must be given."""
    return {name: tuple(shape) for name, shape in getattr(model, "covariates", {}).items()}


def sites_of(model, example=None):
    """`({data: shape}, {latent: (shape, is discrete)})` in the model's order, read off one run.

    Args:
        example: a batch to run it on; a model that takes `size=` needs none.

    Raises:
        UserError: there is no example, and the model does not sample by itself.
    """
    device = device_of(model)
    if example is None:
        if not takes(model, "size"):
            raise UserError("to read this model's latents, pass example={'x': a batch of data}")
        shapes = covariates_of(model).items()
        example = {"size": 2, **{name: torch.zeros(2, *s, device=device) for name, s in shapes}}
    with torch.no_grad(), eval_mode(model), untouched(device), pyro.validation_enabled(False):
        trace = poutine.trace(accepting(model)).get_trace(**example)
    data = {k: tuple(v.shape[1:]) for k, v in example.items() if isinstance(v, torch.Tensor)}
    latents = {}
    # x is data where nothing is observed, as in a model that samples by itself
    observed = {n for n, s in trace.nodes.items() if is_data(s)} or {"x"}
    for name, site in trace.nodes.items():
        if name in observed and site["type"] == "sample":
            data.setdefault(name, tuple(site["fn"].event_shape))
        elif is_latent(site):
            kind = bool(site["fn"].has_enumerate_support)
            latents[name] = (tuple(site["fn"].event_shape), kind)
    return data, latents


def one_hot_labels(model, batch, check=True):
    """The batch, its labels `y` as the one-hot rows that a model with a categorical y observes.

    Labels are whole numbers `[N]`, or one-hot rows `[N, K]` of any dtype. Without `check`, a GPU is
    not waited for; the labels must have been checked before.
    """
    y = batch.get("y")
    if y is None or not hasattr(model, "p_y"):
        return batch
    (num_classes,) = model.p_y().event_shape
    dtype = batch["x"].dtype if "x" in batch else torch.get_default_dtype()
    if y.dim() != 1:
        if y.dim() != 2 or y.shape[1] != num_classes:
            raise UserError(
                f"labels must be whole numbers [N] or one-hot rows [N, {num_classes}] to be "
                f"observed, not of shape {list(y.shape)}"
            )
        if check and not (((y == 0) | (y == 1)).all() and (y.sum(-1) == 1).all()):
            raise UserError(
                "y has rows that are not one-hot: one 1 and otherwise 0, or whole numbers [N]"
            )
        return {**batch, "y": y.to(dtype)}
    if check and y.is_floating_point() and (y != y.round()).any():
        raise UserError("labels must be whole numbers to be observed, or one-hot rows")
    if check and (y.min() < 0 or y.max() >= num_classes):
        raise UserError(
            f"labels must lie in 0..{num_classes - 1} to be observed; "
            f"found {int(y.min())}..{int(y.max())}"
        )
    return {**batch, "y": torch.nn.functional.one_hot(y.long(), num_classes).to(dtype)}


def reads_index(guide):
    """Whether a guide has a row per training datum, and so nothing to say of other data."""
    if isinstance(guide, Program):
        return any("index" in parents for parents in getattr(guide, "given", {}).values())
    return takes(guide, "index")


def modules(*programs):
    """The `nn.Module`s behind programs, each once: themselves, whose methods they are, what they name."""
    found, seen, queue = {}, set(), list(programs)
    while queue:
        item = queue.pop(0)
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, nn.Module):
            found[id(item)] = item
        elif isinstance(item, types.MethodType):
            owner = item.__self__
            queue += (
                [owner]
                if isinstance(owner, nn.Module)
                else _modules_in(getattr(owner, "__dict__", {}).values())
            )
            queue.append(item.__func__)
        elif isinstance(item, functools.partial):
            queue += [item.func, *item.args, *item.keywords.values()]
        elif isinstance(item, types.FunctionType):
            for cell in item.__closure__ or ():
                try:
                    queue.append(cell.cell_contents)
                except ValueError:  # a name that is not bound yet
                    pass
            queue += _modules_in(item.__globals__.get(n) for n in item.__code__.co_names)
    return list(found.values())


def _modules_in(values):
    return [v for v in values if isinstance(v, nn.Module)]


def device_of(*programs, default="cpu"):
    """Where the first parameter or buffer of the programs lives."""
    for module in modules(*programs):
        for tensor in [*module.parameters(), *module.buffers()]:
            return tensor.device
    return torch.device(default)


@contextmanager
def eval_mode(*programs):
    """Modules in eval mode, and back to what each submodule was in; one thread at a time."""
    with exclusive():
        was = [(m, m.training) for p in modules(*programs) for m in p.modules()]
        try:
            for p in modules(*programs):
                p.eval()
            yield
        finally:
            for m, training in was:
                m.training = training


@contextmanager
def untouched(device=None):
    """Torch's random streams, on the CPU and `device`, are left as they were; one thread at a time."""
    cuda = device is not None and torch.device(device).type == "cuda"
    with exclusive(), torch.random.fork_rng(devices=[device] if cuda else []):
        yield


@contextmanager
def seeded(seed, device=None):
    """Run with a seed of its own; the caller's random stream is left as it was."""
    if seed is None:
        yield
        return
    with untouched(device):
        torch.manual_seed(seed)
        yield


@contextmanager
def apart():
    """Run another pair in the midst of a program, hidden from whatever handles that program.

    `poutine.block` is not enough: plates and enumeration dimensions are dealt out globally.
    """
    handlers, runtime._PYRO_STACK[:] = list(runtime._PYRO_STACK), []
    plates, runtime._DIM_ALLOCATOR._stack = runtime._DIM_ALLOCATOR._stack, []
    enumeration = dict(vars(runtime._ENUM_ALLOCATOR))
    try:
        yield
    finally:
        runtime._PYRO_STACK[:] = handlers
        runtime._DIM_ALLOCATOR._stack = plates
        vars(runtime._ENUM_ALLOCATOR).update(enumeration)


def is_subsample(site):
    return type(site["fn"]).__name__ == "_Subsample"


def is_deterministic(site):
    """Whether a site is `pyro.deterministic`'s: a recorded value, neither data nor a latent."""
    return bool(site["infer"].get("_deterministic"))


def is_factor(site):
    """Whether a site is `pyro.factor`'s: a term of the log-density without a value."""
    if site["type"] != "sample":
        return False
    fn = site["fn"]
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return isinstance(fn, pyro.distributions.Unit)


def is_random(site):
    """Whether a site is one of a value that has a distribution: data, or a latent."""
    if site["type"] != "sample":
        return False
    return not (is_subsample(site) or is_deterministic(site) or is_factor(site))


def is_data(site):
    """Whether a site holds data: observed, or observed before its value was hidden."""
    return is_random(site) and bool(site["is_observed"] or site["infer"].get("was_observed"))


def is_latent(site):
    return is_random(site) and not is_data(site)


def dtype_of(*programs):
    """The dtype that programs compute in, their first floating-point parameter's; None without one."""
    for module in modules(*programs):
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.is_floating_point():
                return tensor.dtype
    return None


def first_argument(program):
    """The name of the argument that takes x: `x`, else the first one."""
    names = parameters_of(program)
    return "x" if "x" in names else next(iter(names), "x")
