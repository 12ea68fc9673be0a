"""What `test_distributed.py` runs in one process and, under torchrun, in two.

python -m torch.distributed.run --standalone --nproc_per_node=2 distributed_worker.py FOLDER
"""

import math
import os
import signal
import sys
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

import pyro_vae as pv
from pyro_vae.conditionals import MLP

RANK = int(os.environ.get("RANK", 0))
NET = MLP((16,))


def quiet(*arguments, **options):
    return pv.fit(*arguments, progress=False, device="cpu", **options)


class FixedNoise(dist.Normal):
    """A normal distribution whose draw is what a table says: the same in whichever process it is made."""

    def __init__(self, loc, scale, noise):
        super().__init__(loc, scale)
        self.noise = noise

    def expand(self, batch_shape, _instance=None):
        return self

    def rsample(self, sample_shape=()):
        return self.loc + self.scale * self.noise


class Decoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(2, 5)
        self.unused = torch.nn.Parameter(
            torch.ones(1)
        )  # no gradient: weight decay must not reach it

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1).to_event(1))
            pyro.sample("x", dist.Normal(self.net(z), 1).to_event(1), obs=x)


class Encoder(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(5, 4)
        self.register_buffer("table", torch.randn(64, 2))
        self.register_buffer("seen", torch.tensor(RANK == 0))  # of another type, and 0-dim

    def forward(self, x, index=None):
        loc, scale = self.net(x).chunk(2, -1)
        distribution = dist.Normal(loc, scale.exp())
        if index is not None:
            distribution = FixedNoise(loc, scale.exp(), self.table[index])
        with pyro.plate("data", len(x)):
            pyro.sample("z", distribution.to_event(1))


def fixed_noise(seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    return Decoder().to(dtype), Encoder().to(dtype)


def x_of(n, seed=1):
    return torch.randn(n, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def digits_pair(seed=0):
    torch.manual_seed(seed)
    m = pv.models.GMVAE((1, 8, 8), latent_dim=3, network=NET)
    return m, pv.guides.Guide(m, network=NET)


def result(pair, run):
    weights = {f"{i}.{k}": v for i, m in enumerate(pair) for k, v in m.state_dict().items()}
    rows = [{k: v for k, v in row.items() if "second" not in k} for row in run.history]
    return {"weights": weights, "rows": rows, "best_epoch": run.best_epoch}


# ------------------------------------------------ what one process does as well as two


def same_as_one(compile=False, batch_size=4):
    """29 training data in batches of 4: the last has one data point, and one process of two has none."""
    data = pv.data.from_arrays(x_of(36), valid=7, test=0)
    assert len(data.train) == 29
    pair = fixed_noise(seed=RANK)  # other initial weights: rank 0's must be taken
    run = quiet(
        *pair, data, 4, lr=0.03, batch_size=batch_size, clip_norm=2.0, weight_decay=0.1,
        schedule="cosine", compile=compile, objective=pv.objectives.ELBO(warmup=2),
    )  # fmt: skip
    return result(pair, run)


class Stream:
    """Batches from elsewhere, an epoch's number stated, as dicts."""

    def __init__(self, x, size):
        self.parts = x.split(size)

    def __len__(self):
        return len(self.parts)

    def __iter__(self):
        start = 0
        for part in self.parts:
            yield {"x": part, "index": torch.arange(start, start + len(part))}
            start += len(part)


def stream(size):
    """20 data: batches of `size`, the last of them short."""
    pair = fixed_noise()
    return result(pair, quiet(*pair, Stream(x_of(20), size), 3, lr=0.03))


# --------------------------------------------------------------- what takes two


def noise(folder):
    """The first draws of each process, and where its stream is at the end."""
    drawn = []

    class Spy(Encoder):
        def forward(self, x, index=None):
            drawn.append(torch.randn(3))
            return super().forward(x, index)

    torch.manual_seed(0)
    quiet(Decoder().double(), Spy().double(), x_of(16), 2, batch_size=8)
    return drawn


def loaders(folder):
    """Which data each process is given in each epoch, by a shuffling loader and a sampler."""
    x = torch.arange(24.0).unsqueeze(1).expand(24, 5)
    dataset = TensorDataset(x.double())
    actual = {}
    sampler = DistributedSampler(dataset, 2, RANK, shuffle=True)
    for name, loader in {
        "shuffled": DataLoader(dataset, batch_size=3, shuffle=True),
        "sampler": DataLoader(dataset, batch_size=3, sampler=sampler),
    }.items():
        seen = []

        class Spy(Decoder):
            def forward(self, x):
                if self.training:
                    seen.append(x[:, 0].tolist())  # noqa: B023
                return super().forward(x)

        torch.manual_seed(0)
        m, g = Spy().double(), Encoder().double()
        before = []

        def start(*a):  # so that what is called before training is not counted
            before.append(len(seen))  # noqa: B023

        quiet(m, g, loader, 2, initialize=start)
        actual[name] = seen[-9:-1]  # 2 epochs of 4 steps; the last call looks at what they left
    return actual


def bad_share(folder):
    """A loss that is not finite in the second process alone; what every process says of it."""
    m, g = fixed_noise()
    step, count = torch.optim.AdamW.step, [0]

    def poison(optimizer, *a, **k):
        count[0] += 1
        if count[0] == 3 and RANK == 1:
            with torch.no_grad():
                m.net.bias.fill_(math.nan)
        return step(optimizer, *a, **k)

    torch.optim.AdamW.step = poison
    try:
        quiet(m, g, x_of(32), 3, batch_size=4, out=folder / "bad")
    except pv.UserError as e:
        return str(e)
    finally:
        torch.optim.AdamW.step = step


def start(folder):
    """A mixture start, and two epochs."""
    pair = digits_pair(seed=RANK)
    data = pv.data.load("digits", binarize="dynamic")
    first = pv.train.MixtureInitialization(epochs=1, fits=1, draws=1)
    return result(pair, quiet(*pair, data, 2, batch_size=256, initialize=first))


def resumed(folder):
    """Stopped in the second process, in the middle of an epoch; resumed; and not stopped at all."""
    data = pv.data.load("digits", binarize="dynamic")
    options = {"batch_size": 200, "schedule": "linear", "objective": pv.objectives.ELBO(warmup=3)}
    whole = digits_pair()
    actual = {"whole": result(whole, quiet(*whole, data, 3, out=folder / "whole", **options))}
    step, count = torch.optim.AdamW.step, [0]

    def interrupt(optimizer, *a, **k):
        count[0] += 1
        if count[0] == 10 and RANK == 1:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)  # by the terminal, and by torchrun
        return step(optimizer, *a, **k)

    torch.optim.AdamW.step = interrupt
    try:
        part = quiet(*digits_pair(), data, 3, out=folder / "part", **options)
    finally:
        torch.optim.AdamW.step = step
    actual["interrupted"] = part.interrupted, len(part.history)
    pair = digits_pair(seed=7)
    actual["part"] = result(
        pair, quiet(*pair, data, 3, out=folder / "part", resume=True, **options)
    )
    return actual


def main(folder):
    torch.set_num_threads(1)
    actual = {
        "plain": same_as_one(),
        "recorded": same_as_one(compile="recorded"),
        "stream": stream(3),
    }
    for scenario in (noise, loaders, bad_share, start, resumed):
        actual[scenario.__name__] = scenario(folder)
    torch.save(actual, folder / f"rank{RANK}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
