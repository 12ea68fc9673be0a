"""Training steps on a GPU's tensors, without a GPU: no device is mixed up, no value reaches the host.

The forward pass runs on fake CUDA tensors, which know their device and have no values: an operation
with a CPU tensor raises, and so does a look at a value. Forward and backward run on `meta` tensors.
"""

import pyro
import pyro.distributions as dist
import pytest
import torch
from presets import built
from sampling import covering
from torch._subclasses.fake_tensor import FakeTensorMode

from pyro_vae import methods
from pyro_vae._pyro_internals import pyro_without_host_sync
from pyro_vae.objectives import ELBO, SemiSupervised
from pyro_vae.programs.calling import accepts_argument
from pyro_vae.programs.inspection import is_per_datum

X_SHAPE, C_SHAPE, N = (1, 8, 8), (5,), 6
TINY = {
    "model.latent_dim": 2, "model.w_dim": 2, "model.z2_dim": 2, "model.num_components": 3,
    "model.num_classes": 3, "prior.num_components": 3, "network.hidden": [6],
    "model.likelihood": "bernoulli",
}  # fmt: skip


def pair_and_batch(name):
    """A method's pair and a batch on the CPU; the pair was run once, and its layout is known."""
    model, guide = built(name, X_SHAPE, seed=0, overrides=TINY, num_data=N, c_shape=C_SHAPE)
    batch = {"x": torch.zeros(N, *X_SHAPE)}
    if "c" in getattr(model, "observes", ()):
        batch["c"] = torch.zeros(N, *C_SHAPE)
    if is_per_datum(guide):
        batch["index"] = torch.arange(N)
    ELBO().differentiable_loss(model, guide, **batch)
    return model, guide, batch


def move(module, device):
    """Parameters and buffers become tensors without values on the device."""
    for part in module.modules():
        for name, p in part.named_parameters(recurse=False):
            empty = torch.empty_like(p, device=device)
            setattr(part, name, torch.nn.Parameter(empty, requires_grad=p.requires_grad))
        for name, b in part.named_buffers(recurse=False):
            setattr(part, name, torch.empty_like(b, device=device))


def step_on(device, model, guide, batch, objective=None, backward=False):
    """The loss of tensors on the device, and its gradients."""
    objective = ELBO() if objective is None else objective
    for module in (model, guide):
        if isinstance(module, torch.nn.Module):
            move(module, device)
    batch = {name: torch.empty_like(value, device=device) for name, value in batch.items()}
    with pyro.validation_enabled(False), pyro_without_host_sync():
        loss = objective.differentiable_loss(model, guide, **batch)
        if backward:
            loss.backward()
    return loss


#: its forward pass takes gradients, and autograd asks the driver for a stream
NEEDS_A_DRIVER = {"semi-amortized"}


@pytest.mark.parametrize("name", covering(sorted(set(methods.METHODS) - NEEDS_A_DRIVER), every=3))
def test_the_forward_pass_stays_on_the_gpu_and_looks_at_no_value(name):
    pair = pair_and_batch(name)
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert step_on("cuda", *pair).device.type == "cuda"


@pytest.mark.parametrize("name", covering(list(methods.METHODS), every=3, first=1))
def test_forward_and_backward_look_at_no_value(name):
    model, guide, batch = pair_and_batch(name)
    step_on("meta", model, guide, batch, backward=True)
    parameters = [p for m in (model, guide) for p in m.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.is_meta for p in parameters)


@pytest.mark.parametrize(
    "name", [n for n, m in methods.METHODS.items() if accepts_argument(m.model.forward, "y")]
)
def test_a_step_with_labels_looks_at_no_value(name):
    model, guide, batch = pair_and_batch(name)
    objective = SemiSupervised()
    objective.count_labels(torch.tensor([0, 1, 2, -1, -1, -1]))
    batch["y"] = torch.tensor([0, 1, 2, -1, -1, -1])
    step_on("meta", model, guide, batch, objective, backward=True)


def test_the_two_faults_are_seen():
    def guide(x):
        with pyro.plate("data", len(x)):
            loc = torch.zeros_like(x[:, :2]).requires_grad_()
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    def model_with(disturb):
        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros_like(x[:, :2]), 1.0).to_event(1))
                loc = disturb(z).sum(-1, keepdim=True).expand(-1, 3)
                pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

        return model

    on_the_cpu = model_with(lambda z: z + torch.zeros(N, 2))
    on_the_host = model_with(lambda z: z * float(z.sum()))
    batch = {"x": torch.zeros(N, 3)}
    for model, fault in ((on_the_cpu, "DeviceMismatch"), (on_the_host, "_local_scalar_dense")):
        ELBO().differentiable_loss(model, guide, **batch)
        with FakeTensorMode(allow_non_fake_inputs=True), pytest.raises(Exception, match=fault):
            step_on("cuda", model, guide, batch)
