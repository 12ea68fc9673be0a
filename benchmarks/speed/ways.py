"""Ways of taking a training step: functions of a pair and its loss by hand that return `step(x)`."""

from functools import partial

import pyro
import torch
import torch.nn as nn
from pyro.infer import SVI, TraceEnum_ELBO
from torch.utils._python_dispatch import TorchDispatchMode

import pyro_vae as pv
from pyro_vae.train.steps import cuda_graph
from pyro_vae.train.steps.compiled import CompiledStep
from pyro_vae.train.steps.recorded import PlainStep, RecordedStep

from .workloads import X

A = torch.ops.aten


def _trainer(pair, loss):
    """A step of `loss(x)`, which leaves gradients, and a fused Adam."""
    parameters = [p for m in pair for p in m.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=True)

    def step(x):
        optimizer.zero_grad(set_to_none=True)
        loss(x)
        optimizer.step()

    return step


def eager(pair, by_hand):
    return _trainer(pair, lambda x: (by_hand(*pair, x) / len(x)).backward())


def graphed(pair, by_hand):
    """The eager step as a CUDA graph, as torch's documentation shows it."""
    parameters = [p for m in pair for p in m.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=True, capturable=True)
    static, replay = None, None

    def train():
        optimizer.zero_grad(set_to_none=True)
        (by_hand(*pair, static) / len(static)).backward()
        optimizer.step()

    def step(x):
        nonlocal static, replay
        if replay is None:
            static = x.clone()
            replay = cuda_graph.capture(train, x.device)
        static.copy_(x)
        replay()

    return step


def compiled(pair, by_hand):
    loss = torch.compile(partial(by_hand, *pair), dynamic=False)
    return _trainer(pair, lambda x: (loss(x) / len(x)).backward())


def svi(pair, by_hand):
    """As Pyro's examples do it."""
    model, guide = pair
    elbo = TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)
    inference = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), elbo)

    def step(x):
        with pyro.validation_enabled(True):
            inference.step(x)

    return step


def plain(pair, by_hand):
    step = PlainStep(pv.objectives.ELBO(), pair)
    return _trainer(pair, lambda x: step({"x": x}))


def recorded(pair, by_hand):
    step = RecordedStep(pv.objectives.ELBO(), pair, "recorded")
    return _trainer(pair, lambda x: step({"x": x}))


def inductor(pair, by_hand):
    """As `fit` trains with `compile=True`: on a CPU, AdamW is in the compiled program."""
    parameters = [p for m in pair for p in m.parameters()]
    if parameters[0].is_cuda:
        step = RecordedStep(pv.objectives.ELBO(), pair, "inductor")
        return _trainer(pair, lambda x: step({"x": x}))
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0, fused=True)
    training = CompiledStep(RecordedStep(pv.objectives.ELBO(), pair, "recorded"), optimizer)
    return lambda x: training({"x": x})


def pythae(device):
    """The step of pythae's `BaseTrainer` on its VAE: 784-400-20, softplus."""
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(X, 400), nn.Softplus(), nn.Linear(400, 40))

        def forward(self, x):
            m, s = self.net(x).chunk(2, -1)
            return ModelOutput(embedding=m, log_covariance=s)

    class Decoder(BaseDecoder):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(
                nn.Linear(20, 400), nn.Softplus(), nn.Linear(400, X), nn.Sigmoid()
            )

        def forward(self, z):
            return ModelOutput(reconstruction=self.net(z))

    config = VAEConfig(input_dim=(X,), latent_dim=20, reconstruction_loss="bce")
    model = VAE(config, Encoder(), Decoder()).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step(x):
        loss = model({"data": x}, epoch=1, dataset_size=len(x), uses_ddp=False).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def recorded_graph(backend, pair, by_hand):
    """As `fit` trains on a GPU."""
    parameters = [p for m in pair for p in m.parameters()]
    lr = torch.tensor(1e-3, device=parameters[0].device)
    optimizer = torch.optim.AdamW(parameters, lr=lr, fused=True, capturable=True)
    step = RecordedStep(pv.objectives.ELBO(), pair, backend)
    training = cuda_graph.GraphedStep(step, optimizer)
    return lambda x: training({"x": x})


WAYS = {
    "hand-written, eager": eager,
    "hand-written, torch.compile": compiled,
    "pyro SVI": svi,
    "pyro_vae, plain": plain,
    "pyro_vae, recorded": recorded,
    "pyro_vae, Inductor": inductor,
}


GPU_WAYS = {
    "hand-written, CUDA graph": graphed,
    "pyro_vae, CUDA graph": partial(recorded_graph, "recorded"),
    "pyro_vae, Inductor, CUDA graph": partial(recorded_graph, "inductor"),
}


class _Products(TorchDispatchMode):
    """Collects shape and stride of the operands of every matrix product of a step."""

    def __init__(self):
        super().__init__()
        self.operands = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (A.mm.default, A.addmm.default, A.bmm.default):
            self.operands.append([(t.shape, t.stride()) for t in args[-2:]])
        return func(*args, **(kwargs or {}))


def products(pair, by_hand, x):
    """A function that computes the hand-written step's matrix products and nothing else.

    On a GPU they are one CUDA graph. The pair is on the CPU.
    """
    with _Products() as products_of_step:  # on the CPU, where backward stays in this thread
        by_hand(*pair, x.cpu()).backward()
    operands = [
        [torch.empty_strided(shape, stride, device=x.device).normal_() for shape, stride in both]
        for both in products_of_step.operands
    ]

    def step(x):
        for a, b in operands:
            torch.matmul(a, b)

    return _replayed(step, x)


def products_and_update(pair, by_hand, x):
    """As `products`, and a fused Adam over the pair's parameters, whose gradients are constants."""
    multiply = products(pair, by_hand, x)
    parameters = [nn.Parameter(p.detach().to(x.device)) for m in pair for p in m.parameters()]
    for p in parameters:
        p.grad = torch.randn_like(p)
    optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=True, capturable=x.is_cuda)
    update = _replayed(lambda x: optimizer.step(), x)

    def step(x):
        multiply(x)
        update(x)

    return step


def _replayed(step, x):
    """On a GPU, the step as a CUDA graph."""
    if x.is_cuda:
        replay = cuda_graph.capture(partial(step, x), x.device)
        return lambda x: replay()
    return step
