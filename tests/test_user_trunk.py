"""A user's `nn.Module` as trunk: the same numbers as an `MLP`, enumeration, and one-line refusals."""

import pytest
import torch
from torch import nn

import pyro_vae as pv
from pyro_vae.conditionals import MLP, Conditional, Normal


def tanh_layer(in_features):
    return nn.Sequential(nn.Linear(in_features, 6), nn.Tanh())


class Trunk(nn.Module):
    """A user's class, which is its own factory."""

    def __init__(self, in_features):
        super().__init__()
        self.layer = nn.Linear(in_features, 5)
        self.norm = nn.LayerNorm(5)

    def forward(self, x):
        return self.norm(self.layer(x)).relu()


def copy_mlp(source, target):
    """Give a conditional with `tanh_layer` the weights of one with `MLP((6,), "tanh")`."""
    first = source.trunk.first
    with torch.no_grad():
        weights = [first.maps[name].weight for name in first.shapes]
        target.trunk.module[0].weight.copy_(torch.cat(weights, 1))
        target.trunk.module[0].bias.copy_(first.bias)
        target.head.load_state_dict(source.head.state_dict())


def pair(network, seed=0):
    torch.manual_seed(seed)
    model = pv.models.M2((4,), num_classes=3, latent_dim=2, likelihood="normal", network=network)
    guide = pv.guides.Guide(model, network=network, share_trunk=False)
    return model.double(), guide.double()


def test_a_module_gives_the_numbers_of_the_mlp_with_its_weights():
    """With enumerated classes too: z <- x, y sees every y for every x."""
    x = torch.randn(5, 4, dtype=torch.float64)
    model, guide = pair(MLP((6,), "tanh"))
    own_model, own_guide = pair(tanh_layer, seed=1)
    own_model.p_x.unconditional_parameters.load_state_dict(
        model.p_x.unconditional_parameters.state_dict()
    )
    copy_mlp(model.p_x, own_model.p_x)
    for latent, factor in guide.factors.items():
        copy_mlp(factor, own_guide.factors[latent])
    expected = pv.evaluate.elbo(model, guide, x, seed=3)
    torch.testing.assert_close(pv.evaluate.elbo(own_model, own_guide, x, seed=3), expected)


@pytest.mark.parametrize("make", [tanh_layer, Trunk])
def test_an_enumerated_parent_adds_rows_to_the_module(make):
    k, b = 3, 4
    q = Conditional((2,), {"x": (1, 2, 2), "y": (k,)}, Normal(), make)
    x, y = torch.randn(b, 1, 2, 2), torch.eye(k)
    enumerated = q(x=x, y=y.unsqueeze(1)).base_dist.loc
    assert enumerated.shape == (k, b, 2)
    for i in range(k):
        one = q(x=x, y=y[i].expand(b, k)).base_dist.loc
        torch.testing.assert_close(enumerated[i], one)
    assert q(x=x[0], y=y[0]).batch_shape == ()


def test_model_and_guide_have_separate_weights_and_all_of_them_train():
    model = pv.models.MixtureVAE((1, 3, 3), 3, 2, likelihood="normal", network=Trunk)
    guide = pv.guides.Guide(model, network=Trunk)
    before = {n: p.clone() for m in (model, guide) for n, p in m.named_parameters()}
    model_weights = {p.data_ptr() for p in model.parameters()}
    assert not model_weights & {p.data_ptr() for p in guide.parameters()}
    pv.fit(model, guide, torch.randn(8, 1, 3, 3), epochs=2, progress=False)
    for module in (model, guide):
        assert all((p != before[n]).any() for n, p in module.named_parameters())


def test_the_recorded_step_of_a_module_is_the_plain_one():
    x, weights = torch.randn(12, 4), []
    for compile in (False, "recorded"):
        torch.manual_seed(0)
        model = pv.models.VAE((4,), 2, likelihood="normal", network=Trunk)
        guide = pv.guides.Guide(model, network=Trunk)
        pv.fit(model, guide, x, epochs=2, batch_size=6, compile=compile, progress=False)
        weights.append(guide.factors["z"].trunk.module.layer.weight.detach())
    torch.testing.assert_close(*weights)


def test_a_run_with_a_module_is_loaded_with_its_pair(tmp_path):
    def new_pair():
        model = pv.models.VAE((4,), 2, likelihood="normal", network=Trunk)
        return model, pv.guides.Guide(model, network=Trunk)

    x = torch.randn(12, 4)
    run = pv.fit(*new_pair(), x, epochs=1, out=tmp_path / "run", progress=False)
    with pytest.raises(pv.UserError, match="model=, guide="):
        pv.load(tmp_path / "run")
    model, guide = new_pair()
    again = pv.load(tmp_path / "run", model=model, guide=guide)
    for a, b in zip(run.guide.parameters(), again.guide.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
def test_an_exported_encoder_has_the_module(tmp_path):
    model = pv.models.VAE((4,), 2, likelihood="normal", network=Trunk)
    guide, x = pv.guides.Guide(model, network=Trunk), torch.randn(9, 4)
    path = pv.generate.export_encoder(model, guide, {"x": x[:4]}, tmp_path / "encoder.pt2")
    encoder = torch.export.load(path).module()
    for n in (1, 9):
        expected = pv.evaluate.encode(model, guide, x[:n])["z"]
        torch.testing.assert_close(encoder(x[:n])["z"], expected)


def test_the_check_leaves_the_random_stream_and_the_modes_of_the_module():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).train()
    q = Conditional((2,), {"x": (3,)}, Normal(), lambda n: module)
    after = torch.rand(1)
    torch.manual_seed(0)
    nn.Linear(3, 4)
    Conditional((2,), {"features": (4,)}, Normal(), MLP(()))  # the head
    assert torch.equal(after, torch.rand(1))
    assert all(part.training for part in q.modules())
    assert torch.equal(module[1].running_mean, torch.zeros(4))


@pytest.mark.parametrize(
    "make",
    [
        lambda n: nn.LazyLinear(3),
        lambda n: nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 3, 2), nn.Flatten()),
        lambda n: nn.Identity(),
        lambda n: nn.Linear(n, 3).double(),
    ],
    ids=["lazy", "convolutions", "without parameters", "float64"],
)
def test_modules_of_many_kinds_are_trunks(make):
    q = Conditional((2,), {"x": (1, 2, 2)}, Normal(), make)
    if isinstance(q.trunk.module, nn.Linear) and q.trunk.module.weight.dtype == torch.float64:
        q.double()
    fn = q(x=torch.randn(5, 1, 2, 2))
    fn.base_dist.loc.sum().backward()
    assert fn.batch_shape == (5,) and all(p.grad is not None for p in q.trunk.parameters())
    with pv.conditionals.network_autocast(torch.bfloat16):
        assert q(x=torch.randn(5, 1, 2, 2)).batch_shape == (5,)


class MeanOverRows(nn.Linear):
    def forward(self, x):
        return super().forward(x - x.mean(0))


class Noisy(nn.Linear):
    def forward(self, x):
        return super().forward(x) + torch.randn(self.out_features)


class Pair(nn.Linear):
    def forward(self, x):
        return super().forward(x), x


class Fails(nn.Linear):
    def forward(self, x):
        raise RuntimeError("a fault of the user's\nwith a second line")


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda n: 3, "must return an nn.Module for 4 inputs, not int"),
        (lambda n: Fails(n, 2), r"4 inputs fails at a batch \[N, 4\]: a fault of the user's$"),
        (lambda n: nn.Linear(3, 2), r"fails at a batch \[N, 4\]: mat1 and mat2 shapes"),
        (lambda n: nn.Flatten(0), r"it maps \[3, 4\] to \[12\]"),
        (lambda n: nn.Unflatten(1, (1, n)), r"it maps \[3, 4\] to \[3, 1, 4\]"),
        (lambda n: Pair(n, 2), r"it maps \[3, 4\] to tuple"),
        (lambda n: MeanOverRows(n, 2), "depend on the other rows"),
        (lambda n: nn.Sequential(nn.Linear(n, 2), nn.Softmax(0)), "depend on the other rows"),
        (lambda n: Noisy(n, 2), "random in eval mode"),
        (nn.Linear(4, 2), "network is one module, whose weights all networks would share"),
        (MLP, "a function of the number of inputs that makes an nn.Module"),
    ],
)
def test_a_module_that_breaks_the_contract_raises_one_line(make, message):
    with pytest.raises(pv.UserError, match=message) as error:
        Conditional((2,), {"x": (4,)}, Normal(), make)
    assert "\n" not in str(error.value)


def test_a_module_that_two_conditionals_would_share_raises():
    layer = nn.Linear(4, 4)
    shared = lambda n: nn.Sequential(layer, nn.ReLU())  # noqa: E731
    model = pv.models.VAE((4,), 4, likelihood="normal", network=shared)
    with pytest.raises(pv.UserError, match="must make a new module in every call"):
        pv.guides.Guide(model, network=shared)


def test_without_parents_and_by_index_no_module_is_made():
    def never(n):
        raise AssertionError

    assert Conditional((2,), {}, Normal(), never).trunk is None
    assert (
        Conditional((2,), {"index": (7,)}, Normal(), never)(index=torch.tensor([1])).mean.any() == 0
    )
    with pytest.raises(pv.UserError, match="'index' and others together"):
        Conditional((2,), {"index": (7,), "x": (3,)}, Normal(), never)
