"""Pyro programs in the shapes that their authors use: examples, single-cell models, student VAEs.

Each builder of `PROGRAMS` returns a `UserProgram` with random weights and N data points. `REFUSED`
has programs without one data plate, which the library must refuse in one line.
"""

import functools
from dataclasses import dataclass, field

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as T
import torch
import torch.nn as nn
import torch.nn.functional as F
import zuko
from pyro import poutine
from pyro.contrib.easyguide import EasyGuide
from pyro.contrib.zuko import ZukoToPyro
from pyro.distributions.util import broadcast_shape
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroParam
from torch.distributions import constraints

N, D, L, K, H = 17, 6, 2, 3, 8


@dataclass
class UserProgram:
    """A pair and its data, and how Pyro itself trains it.

    Attributes:
        batch: arrays by name; "x" is the first argument, whatever its name.
        site: the observed site, or one of several.
        loss: Pyro's ELBO that trains the pair.
        summed: `{latent: its values}` of discrete latents that the model alone samples.
        plain: Pyro's loss is N times the negative ELBO: no scale, no factor, and no observed site
            in the guide.
        all_rows: it has one row per data point and takes no index: it runs on all data at once.
        modules: the networks.
    """

    model: object
    guide: object
    batch: dict
    site: str
    loss: type = Trace_ELBO
    summed: dict = field(default_factory=dict)
    plain: bool = True
    all_rows: bool = False
    modules: tuple = ()


PROGRAMS, REFUSED = {}, {}


def program(builder):
    PROGRAMS[builder.__name__] = builder
    return builder


def refused(builder):
    REFUSED[builder.__name__] = builder
    return builder


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


def binary(*shape):
    """Two kinds of rows, each with its half of the units on."""
    size = torch.Size(shape or (D,)).numel()
    p = torch.full((2, size), 0.15)
    p[0, : size // 2], p[1, size // 2 :] = 0.85, 0.85
    x = torch.bernoulli(p[torch.arange(N) % 2], generator=generator())
    return x.reshape(N, *(shape or (D,)))


def real(*shape):
    return torch.randn(N, *(shape or (D,)), generator=generator())


def counts(rate=1.5):
    return torch.poisson(torch.full((N, D), rate), generator=generator()) + 1.0


def one_hot():
    return F.one_hot(torch.arange(N) % K, K).float()


def net(inputs, outputs, *between):
    return nn.Sequential(nn.Linear(inputs, H), *between, nn.Tanh(), nn.Linear(H, outputs))


class Encoder(nn.Module):
    """A hidden layer, then location and scale."""

    def __init__(self, inputs=D, latent=L):
        super().__init__()
        self.fc, self.loc, self.log_scale = (
            nn.Linear(inputs, H),
            nn.Linear(H, latent),
            nn.Linear(H, latent),
        )

    def forward(self, x):
        h = torch.tanh(self.fc(x))
        return 0.5 * self.loc(h), torch.exp(0.3 * self.log_scale(h))


class ConcatModule(nn.Module):
    """Joins its inputs along the last dimension, after broadcasting the others."""

    def forward(self, *inputs):
        inputs = inputs[0] if len(inputs) == 1 else inputs
        if torch.is_tensor(inputs):
            return inputs
        shape = broadcast_shape(*[i.shape[:-1] for i in inputs]) + (-1,)
        return torch.cat([i.expand(shape) for i in inputs], dim=-1)


# ---------------------------------------------------------------- plain VAEs


class VAE(nn.Module):
    """Pyro's tutorial: model and guide are methods, and register their networks."""

    def __init__(self):
        super().__init__()
        self.encoder = Encoder()
        self.decoder = nn.Sequential(net(L, D, nn.Dropout(0.5)), nn.Sigmoid())

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            z_loc = torch.zeros(x.shape[0], L, dtype=x.dtype, device=x.device)
            z_scale = torch.ones(x.shape[0], L, dtype=x.dtype, device=x.device)
            z = pyro.sample("latent", dist.Normal(z_loc, z_scale).to_event(1))
            p = self.decoder(z)
            pyro.sample("obs", dist.Bernoulli(p).to_event(1), obs=x.reshape(-1, D))
            return p

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", x.shape[0]):
            loc, scale = self.encoder(x.reshape(-1, D))
            pyro.sample("latent", dist.Normal(loc, scale).to_event(1))


@program
def vae():
    vae = VAE()
    return UserProgram(vae.model, vae.guide, {"x": binary()}, "obs", modules=(vae,))


@program
def multinomial_softmax_dim_1():
    dec, enc = nn.Linear(L, 5), nn.Linear(5, L)
    x = dist.Multinomial(8, torch.tensor([0.5, 0.2, 0.1, 0.1, 0.1])).sample((N,))

    def model(x):
        pyro.module("dec", dec)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), L), 1.0).to_event(1))
            pyro.sample("obs", dist.Multinomial(8, torch.softmax(dec(z), dim=1)), obs=x)

    def guide(x):
        pyro.module("enc", enc)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(enc(x) / 20, 1.0).to_event(1))

    return UserProgram(model, guide, {"x": x}, "obs", modules=(dec, enc))


@program
def functions_with_pyro_param():
    def model(data):
        w = pyro.param("w", lambda: 0.5 * torch.randn(L, D, generator=generator()))
        b = pyro.param("b", torch.zeros(D))
        with pyro.plate("data", data.size(0)):
            z = pyro.sample("z", dist.Normal(torch.zeros(L), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=z @ w + b).to_event(1), obs=data)

    def guide(data):
        a = pyro.param("a", lambda: 0.1 * torch.randn(D, L, generator=generator()))
        scale = pyro.param("scale", torch.full((L,), 0.8), constraints.positive)
        with pyro.plate("data", data.size(0)):
            pyro.sample("z", dist.Normal(data @ a, scale).to_event(1))

    return UserProgram(model, guide, {"x": binary()}, "x")


class PyroModel(PyroModule):
    def __init__(self):
        super().__init__()
        self.decoder = PyroModule[nn.Linear](L, D)
        self.scale = PyroParam(torch.tensor(0.7), constraint=constraints.positive)

    def forward(self, x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(L), self.scale).to_event(1))
            pyro.sample("obs", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)


class PyroGuide(PyroModule):
    def __init__(self):
        super().__init__()
        self.encoder = PyroModule[Encoder](D)

    def forward(self, x):
        with pyro.plate("rows", len(x)):
            loc, scale = self.encoder(x)
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))


@program
def pyro_modules():
    model, guide = PyroModel(), PyroGuide()
    return UserProgram(model, guide, {"x": binary()}, "obs", modules=(model, guide))


class Easy(EasyGuide):
    """Both latents in one group, which has a full normal with a mean from a network."""

    def __init__(self, model):
        super().__init__(model)
        self.net = nn.Linear(D, L + 1)

    def guide(self, x):
        group = self.group(match="[uv]")
        tril = pyro.param("tril", lambda: torch.eye(L + 1), constraints.lower_cholesky)
        with self.plate("data", x.shape[0], dim=-1):
            group.sample("uv", dist.MultivariateNormal(0.3 * self.net(x), scale_tril=tril))


@program
def easy_guide():
    decoder = net(L + 1, D)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x), dim=-1):
            u = pyro.sample("u", dist.Normal(torch.zeros(L), 1.0).to_event(1))
            v = pyro.sample("v", dist.Gamma(2.0, 1.0))
            logits = decoder(torch.cat([u, v.unsqueeze(-1)], -1))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    guide, x = Easy(model), binary()
    guide(x)
    return UserProgram(model, guide, {"x": x}, "x", modules=(decoder, guide))


@program
def masks_and_dimensions_from_the_left():
    """`h[mask]`, `F.normalize(h)`, `h.mean(1)`, `z[:, 0]`, `view(len(x), -1)`."""
    enc, dec = Encoder(D + 1), nn.Linear(L + 1, D)

    def model(x):
        pyro.module("dec", dec)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), L), 1.0).to_event(1))
            h = torch.cat([F.normalize(z), z.mean(1).unsqueeze(1)], 1)
            gate = torch.ones(len(x))
            far = z[:, 0] > 0
            gate[far] = 1 + z[far][:, 1] ** 2
            logits = (dec(h) * gate.unsqueeze(1)).view(len(x), 2, -1).view(len(x), -1)
            pyro.sample("obs", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(x):
        pyro.module("enc", enc)
        with pyro.plate("data", len(x)):
            loc, scale = enc(torch.cat([F.normalize(x + 0.1), x.sum(1, keepdim=True)], 1))
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    return UserProgram(model, guide, {"x": binary()}, "obs", modules=(enc, dec))


class ConvVAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()
        )
        self.loc, self.log_scale = nn.Linear(64, L), nn.Linear(64, L)
        self.fc = nn.Linear(L, 128)
        self.deconv = nn.Sequential(
            nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 1, 4, stride=2, padding=1)
        )

    def model(self, x):
        pyro.module("conv_vae", self)
        with pyro.plate("data", x.size(0)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(x.size(0), L), 1.0).to_event(1))
            logits = self.deconv(self.fc(z).view(-1, 8, 4, 4))
            pyro.sample("obs", dist.Bernoulli(logits=logits).to_event(3), obs=x)

    def guide(self, x):
        pyro.module("conv_vae", self)
        with pyro.plate("data", x.size(0)):
            h = self.conv(x)
            q = dist.Normal(0.3 * self.loc(h), torch.exp(0.3 * self.log_scale(h)))
            pyro.sample("z", q.to_event(1))


@program
def convolutional_view():
    vae = ConvVAE()
    return UserProgram(vae.model, vae.guide, {"x": binary(1, 8, 8)}, "obs", modules=(vae,))


@program
def convolutional_unflatten():
    decoder = nn.Sequential(
        nn.Linear(L, 64), nn.Unflatten(1, (4, 4, 4)), nn.ConvTranspose2d(4, 1, 2, stride=2)
    )
    encoder = nn.Sequential(nn.Conv2d(1, 2, 4, stride=4), nn.Flatten(), nn.Linear(8, 2 * L))

    def model(img):
        pyro.module("decoder", decoder)
        with pyro.plate("batch", img.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([img.shape[0], L]).to_event(1))
            recon = torch.sigmoid(decoder(z)).flatten(1)
            pyro.sample("img", dist.Bernoulli(recon).to_event(1), obs=img.flatten(1))

    def guide(img):
        pyro.module("encoder", encoder)
        with pyro.plate("batch", img.shape[0]):
            mu, log_var = encoder(img).chunk(2, dim=1)
            pyro.sample("z", dist.Normal(0.3 * mu, (0.3 * log_var).exp()).to_event(1))

    modules = (decoder, encoder)
    return UserProgram(model, guide, {"x": binary(1, 8, 8)}, "img", modules=modules)


@program
def boolean_mask_of_missing_values():
    """Missing values are masked out of the likelihood; the mask is an argument."""
    enc, dec = Encoder(2 * D), net(L, D)
    mask = torch.rand(N, D, generator=generator(2)) > 0.3

    def model(x, mask):
        pyro.module("dec", dec)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(x.shape[0], L), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(dec(z), 1.0).mask(mask).to_event(1), obs=x)

    def guide(x, mask):
        pyro.module("enc", enc)
        with pyro.plate("data", x.shape[0]):
            loc, scale = enc(torch.cat([x * mask, mask.float()], dim=1))
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    return UserProgram(model, guide, {"x": real(), "mask": mask}, "x", modules=(enc, dec))


@program
def required_argument_by_name():
    enc, dec = Encoder(D + 2), net(L + 2, D)
    w = torch.randn(N, 2, generator=generator(2))

    def model(x, w):
        pyro.module("dec", dec)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(x.shape[0], L), 1.0).to_event(1))
            loc = dec(torch.cat([z, w], 1))
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(x, w):
        pyro.module("enc", enc)
        with pyro.plate("data", x.shape[0]):
            loc, scale = enc(torch.cat([x, w], 1))
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    return UserProgram(model, guide, {"x": real(), "w": w}, "x", modules=(enc, dec))


@program
def token_sequences():
    """Whole numbers into an `nn.Embedding`, and a GRU over `[T, N, H]`."""
    vocabulary, length = 5, 4
    embedding, gru = nn.Embedding(vocabulary, 4), nn.GRU(4, H)
    head, dec = nn.Linear(H, 2 * L), nn.Linear(L, length * vocabulary)
    tokens = torch.randint(vocabulary, (N, length), generator=generator())

    def model(tokens):
        pyro.module("dec", dec)
        with pyro.plate("sentences", tokens.size(0)):
            z = pyro.sample("z", dist.Normal(torch.zeros(tokens.size(0), L), 1.0).to_event(1))
            logits = dec(z).view(tokens.size(0), length, vocabulary)
            pyro.sample("tokens", dist.Categorical(logits=logits).to_event(1), obs=tokens)

    def guide(tokens):
        for name, module in {"embedding": embedding, "gru": gru, "head": head}.items():
            pyro.module(name, module)
        with pyro.plate("sentences", tokens.size(0)):
            _, h = gru(embedding(tokens.long()).transpose(0, 1))
            mu, log_var = head(h[-1]).split(L, dim=1)
            pyro.sample("z", dist.Normal(mu, torch.exp(0.5 * log_var)).to_event(1))

    modules = (embedding, gru, head, dec)
    return UserProgram(model, guide, {"x": tokens}, "tokens", modules=modules)


# ---------------------------------------------------------------- semi-supervised


class SSVAE(nn.Module):
    """Pyro's ss-VAE: the plate has no size, and what is joined is broadcast first."""

    def __init__(self):
        super().__init__()
        self.encoder_y = nn.Sequential(nn.Linear(D, K), nn.Softmax(dim=-1))
        self.join = ConcatModule()
        self.encoder_z, self.decoder = Encoder(D + K), net(L + K, D)

    def model(self, xs, ys=None):
        pyro.module("ss_vae", self)
        batch_size = xs.size(0)
        with pyro.plate("data"):
            loc, scale = xs.new_zeros(batch_size, L), xs.new_ones(batch_size, L)
            zs = pyro.sample("z", dist.Normal(loc, scale).to_event(1))
            prior = xs.new_ones(batch_size, K) / K
            ys = pyro.sample("y", dist.OneHotCategorical(prior), obs=ys)
            p = torch.sigmoid(self.decoder(self.join(zs, ys)))
            pyro.sample("x", dist.Bernoulli(p, validate_args=False).to_event(1), obs=xs)
            return p

    def guide(self, xs, ys=None):
        with pyro.plate("data"):
            if ys is None:
                ys = pyro.sample("y", dist.OneHotCategorical(self.encoder_y(xs)))
            loc, scale = self.encoder_z(self.join(xs, ys))
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))


@program
def ss_vae_parallel():
    vae = SSVAE()
    guide = config_enumerate(vae.guide, "parallel", expand=True)
    return UserProgram(vae.model, guide, {"x": binary()}, "x", TraceEnum_ELBO, modules=(vae,))


@program
def ss_vae_labeled():
    """The same pair where y is observed."""
    vae = SSVAE()
    guide = config_enumerate(vae.guide, "parallel", expand=True)
    batch = {"x": binary(), "ys": one_hot()}
    return UserProgram(vae.model, guide, batch, "x", TraceEnum_ELBO, modules=(vae,))


class CatSSVAE(nn.Module):
    """y is joined by `torch.cat`, which does not broadcast."""

    def __init__(self):
        super().__init__()
        self.encoder_y, self.encoder_z = nn.Linear(D, K), Encoder(D + K)
        self.decoder = net(L + K, D)

    def model(self, x, y=None):
        pyro.module("ss_vae", self)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(x.new_zeros(x.shape[0], L), 1.0).to_event(1))
            y = pyro.sample("y", dist.OneHotCategorical(x.new_ones(x.shape[0], K) / K), obs=y)
            logits = self.decoder(torch.cat([z, y], -1))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x, y=None):
        pyro.module("ss_vae", self)
        with pyro.plate("data", x.shape[0]):
            if y is None:
                y = pyro.sample("y", dist.OneHotCategorical(logits=self.encoder_y(x)))
            loc, scale = self.encoder_z(torch.cat([x, y], -1))
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))


@program
def ss_vae_sequential():
    vae = CatSSVAE()
    guide = config_enumerate(vae.guide, "sequential", expand=True)
    return UserProgram(vae.model, guide, {"x": binary()}, "x", TraceEnum_ELBO, modules=(vae,))


@program
def ss_vae_sampled():
    vae = CatSSVAE()
    return UserProgram(vae.model, vae.guide, {"x": binary()}, "x", modules=(vae,))


class ExpandSSVAE(CatSSVAE):
    """x takes the shape of y, which therefore must have all rows: `"expand": True`."""

    def model(self, x, y=None):
        pyro.module("ss_vae", self)
        with pyro.plate("data", x.shape[0]):
            y = pyro.sample("y", dist.OneHotCategorical(x.new_ones(x.shape[0], K) / K), obs=y)
            z = pyro.sample("z", dist.Normal(x.new_zeros(x.shape[0], L), 1.0).to_event(1))
            logits = self.decoder(torch.cat([z.expand(y.shape[:-1] + (L,)), y], -1))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x, y=None):
        pyro.module("ss_vae", self)
        with pyro.plate("data", x.shape[0]):
            if y is None:
                q = dist.OneHotCategorical(logits=self.encoder_y(x))
                y = pyro.sample("y", q, infer={"enumerate": "parallel", "expand": True})
            loc, scale = self.encoder_z(torch.cat([x.expand(y.shape[:-1] + (D,)), y], -1))
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))


@program
def ss_vae_expanded():
    vae = ExpandSSVAE()
    return UserProgram(vae.model, vae.guide, {"x": binary()}, "x", TraceEnum_ELBO, modules=(vae,))


class IndexSSVAE(nn.Module):
    """y is a number, observed or not; `config_enumerate` is a decorator."""

    def __init__(self):
        super().__init__()
        self.encoder_y, self.encoder_z = nn.Linear(D, K), Encoder(D + K)
        self.decoder = net(L + K, D)

    @staticmethod
    def join(a, y):
        y = torch.eye(K)[y]
        shape = torch.broadcast_shapes(a.shape[:-1], y.shape[:-1])
        return torch.cat([a.expand(shape + (-1,)), y.expand(shape + (-1,))], -1)

    def model(self, xs, ys=None):
        pyro.module("ss_vae", self)
        with pyro.plate("data", xs.size(0)):
            zs = pyro.sample("z", dist.Normal(torch.zeros(L), 1.0).to_event(1))
            ys = pyro.sample("y", dist.Categorical(torch.ones(K) / K), obs=ys)
            logits = self.decoder(self.join(zs, ys))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=xs)

    @config_enumerate
    def guide(self, xs, ys=None):
        with pyro.plate("data", xs.size(0)):
            if ys is None:
                ys = pyro.sample("y", dist.Categorical(logits=self.encoder_y(xs)))
            loc, scale = self.encoder_z(self.join(xs, ys))
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))


@program
def ss_vae_labels_as_numbers():
    vae = IndexSSVAE()
    return UserProgram(vae.model, vae.guide, {"x": binary()}, "x", TraceEnum_ELBO, modules=(vae,))


@program
def mixture_summed_in_the_model():
    """A Gaussian-mixture prior: the guide leaves y out, and the model enumerates it."""
    means, encoder, decoder = nn.Embedding(K, L), Encoder(), net(L, D)

    @config_enumerate
    def model(x):
        pyro.module("means", means)
        pyro.module("decoder", decoder)
        with pyro.plate("data", x.shape[0]):
            y = pyro.sample("y", dist.Categorical(logits=torch.zeros(K)))
            z = pyro.sample("z", dist.Normal(means(y), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", x.shape[0]):
            loc, scale = encoder(x)
            pyro.sample("z", dist.Normal(loc, 1.4 * scale).to_event(1))

    modules = (means, encoder, decoder)
    return UserProgram(
        model,
        guide,
        {"x": binary()},
        "x",
        TraceEnum_ELBO,
        summed={"y": torch.arange(K)},
        modules=modules,
    )


@program
def hidden_markov_chain():
    """A chain of discrete states under `pyro.markov`, which uses enumeration dimensions again."""
    length = 3
    encoder, emission = Encoder(length), nn.Linear(L, 2)

    @config_enumerate
    def model(x):
        pyro.module("emission", emission)
        move = pyro.param("move", torch.tensor([[0.8, 0.2], [0.3, 0.7]]), constraints.simplex)
        with pyro.plate("sequences", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(x.shape[0], L), 1.0).to_event(1))
            levels, state = emission(z), 0
            for t in pyro.markov(range(length)):
                state = pyro.sample(f"state_{t}", dist.Categorical(move[state]))
                loc = torch.where(state == 0, levels[..., 0], 2.0 + levels[..., 1])
                pyro.sample(f"x_{t}", dist.Normal(loc, 1.0), obs=x[:, t])

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("sequences", x.shape[0]):
            loc, scale = encoder(x)
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    return UserProgram(
        model,
        guide,
        {"x": real(length)},
        "x_1",
        TraceEnum_ELBO,
        summed={f"state_{t}": torch.arange(2) for t in range(length)},
        modules=(encoder, emission),
    )


@program
def binary_latents():
    """A sigmoid belief network: binary latents of one event, trained by the score function."""
    encoder, decoder = net(D, 4), net(4, D)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            h = pyro.sample("h", dist.Bernoulli(0.5 * torch.ones(len(x), 4)).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(h)).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("h", dist.Bernoulli(logits=encoder(x)).to_event(1))

    return UserProgram(model, guide, {"x": binary()}, "x", modules=(encoder, decoder))


# ---------------------------------------------------------------- conditional


class MaskedEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = Encoder()

    def forward(self, x, y):
        filled = x.clone()
        filled[x == -1] = y[x == -1]
        return self.net(filled.view(-1, D))


class CVAE(nn.Module):
    """Pyro's CVAE: fills the hidden part (-1) of x, from a baseline's first answer."""

    def __init__(self):
        super().__init__()
        self.baseline_net = nn.Sequential(nn.Linear(D, D), nn.Sigmoid())
        self.prior_net, self.recognition_net = MaskedEncoder(), MaskedEncoder()
        self.generation_net = nn.Sequential(net(L, D), nn.Sigmoid())

    def model(self, xs, ys=None):
        pyro.module("generation_net", self)
        batch_size = xs.shape[0]
        with pyro.plate("data"):
            with torch.no_grad():
                y_hat = self.baseline_net(xs).view(xs.shape)
            loc, scale = self.prior_net(xs, y_hat)
            zs = pyro.sample("z", dist.Normal(loc, scale).to_event(1))
            p = self.generation_net(zs)
            if ys is not None:
                hidden = p[(xs == -1).view(-1, D)].view(batch_size, -1)
                hidden_ys = ys[xs == -1].view(batch_size, -1)
                q = dist.Bernoulli(hidden, validate_args=False).to_event(1)
                pyro.sample("y", q, obs=hidden_ys)
            else:
                pyro.deterministic("y", p.detach())
            return p

    def guide(self, xs, ys=None):
        with pyro.plate("data"):
            if ys is None:
                y_hat = self.baseline_net(xs).view(xs.shape)
                loc, scale = self.prior_net(xs, y_hat)
            else:
                loc, scale = self.recognition_net(xs, ys)
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))


@program
def cvae_with_baseline():
    cvae, ys = CVAE(), binary()
    xs = ys.clone()
    order = torch.rand(N, D, generator=generator(2)).argsort(1)
    xs.scatter_(1, order[:, : D // 2], -1.0)  # every row hides as many units
    return UserProgram(cvae.model, cvae.guide, {"x": xs, "ys": ys}, "y", modules=(cvae,))


class CEVAE(nn.Module):
    """Causal effect VAE: the guide observes t and y too, as auxiliary sites."""

    def __init__(self, auxiliary):
        super().__init__()
        self.auxiliary = auxiliary
        self.x_net, self.t_net = nn.Linear(L, D), nn.Linear(L, 1)
        self.y_net, self.qt_net = nn.Linear(L + 1, 1), nn.Linear(D, 1)
        self.qy_net, self.encoder = nn.Linear(D + 1, 1), Encoder(D + 2)

    def model(self, x, t=None, y=None):
        pyro.module("cevae", self)
        with pyro.plate("data", x.size(0), subsample=x):
            z = pyro.sample("z", dist.Normal(x.new_zeros(L), 1.0).to_event(1))
            x = pyro.sample("x", dist.Normal(self.x_net(z), 1.0).to_event(1), obs=x)
            t = pyro.sample("t", dist.Bernoulli(logits=self.t_net(z).squeeze(-1)), obs=t)
            loc = self.y_net(torch.cat([z, t.unsqueeze(-1)], -1)).squeeze(-1)
            y = pyro.sample("y", dist.Normal(loc, 1.0), obs=y)
        return y

    def guide(self, x, t=None, y=None):
        infer = {"is_auxiliary": True} if self.auxiliary else None
        with pyro.plate("data", x.size(0), subsample=x):
            q_t = dist.Bernoulli(logits=self.qt_net(x).squeeze(-1))
            t = pyro.sample("t", q_t, obs=t, infer=infer)
            loc = self.qy_net(torch.cat([x, t.unsqueeze(-1)], -1)).squeeze(-1)
            y = pyro.sample("y", dist.Normal(loc, 1.0), obs=y, infer=infer)
            inputs = torch.cat([x, t.unsqueeze(-1), y.unsqueeze(-1)], -1)
            loc, scale = self.encoder(inputs)
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))


def _cevae(auxiliary):
    pair = CEVAE(auxiliary)
    t = torch.arange(N).remainder(2).float()
    batch = {"x": real(), "t": t, "y": 0.5 * t + real(1)[:, 0]}
    return UserProgram(pair.model, pair.guide, batch, "x", plain=False, modules=(pair,))


@program
def cevae_with_auxiliary_sites():
    return _cevae(auxiliary=True)


@program
def cevae_with_observed_sites():
    return _cevae(auxiliary=False)


@program
def two_modalities():
    """A multi-modal VAE: two observed sites, a product of experts over a stacked dimension."""
    image_enc, label_enc = Encoder(), Encoder(3)
    image_dec, label_dec = net(L, D), net(L, 3)
    modules = (image_enc, label_enc, image_dec, label_dec)

    def model(image, attributes=None):
        pyro.module("image_dec", image_dec)
        pyro.module("label_dec", label_dec)
        with pyro.plate("data", image.size(0)):
            z = pyro.sample("z", dist.Normal(torch.zeros(image.size(0), L), 1.0).to_event(1))
            pyro.sample("image", dist.Bernoulli(logits=image_dec(z)).to_event(1), obs=image)
            attributes = pyro.sample(
                "attributes", dist.Normal(label_dec(z), 1.0).to_event(1), obs=attributes
            )

    def guide(image, attributes=None):
        pyro.module("image_enc", image_enc)
        pyro.module("label_enc", label_enc)
        with pyro.plate("data", image.size(0)):
            experts = [(torch.zeros(image.size(0), L), torch.ones(image.size(0), L))]
            experts.append(image_enc(image))
            if attributes is not None:
                experts.append(label_enc(attributes))
            locs, scales = (torch.stack(parts, dim=0) for parts in zip(*experts, strict=True))
            precision = 1 / (1 + scales) ** 2
            loc = (locs * precision).sum(dim=0) / precision.sum(dim=0)
            pyro.sample("z", dist.Normal(loc, precision.sum(dim=0) ** -0.5).to_event(1))

    batch = {"x": binary(), "attributes": real(3)}
    return UserProgram(model, guide, batch, "image", modules=modules)


# ---------------------------------------------------------------- topics and cells


class TopicEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop, self.fc = nn.Dropout(0.2), nn.Linear(D, H)
        self.fcmu, self.fclv = nn.Linear(H, K), nn.Linear(H, K)
        self.bnmu, self.bnlv = nn.BatchNorm1d(K), nn.BatchNorm1d(K)

    def forward(self, counts):
        h = self.drop(F.softplus(self.fc(counts)))
        return 0.3 * self.bnmu(self.fcmu(h)), (0.1 * self.bnlv(self.fclv(h))).exp()


class TopicDecoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.beta, self.bn = nn.Linear(K, D, bias=False), nn.BatchNorm1d(D)
        self.drop = nn.Dropout(0.2)

    def forward(self, theta):
        return F.softmax(self.bn(self.beta(self.drop(theta))), dim=1)


@program
def prod_lda():
    encoder, decoder = TopicEncoder(), TopicDecoder()

    def model(docs):
        pyro.module("decoder", decoder)
        with pyro.plate("documents", docs.shape[0]):
            loc, scale = docs.new_zeros(docs.shape[0], K), docs.new_ones(docs.shape[0], K)
            log_theta = pyro.sample("log_theta", dist.Normal(loc, scale).to_event(1))
            probabilities = decoder(F.softmax(log_theta, -1))
            total_count = int(docs.sum(-1).max())
            pyro.sample("obs", dist.Multinomial(total_count, probabilities), obs=docs)

    def guide(docs):
        pyro.module("encoder", encoder)
        with pyro.plate("documents", docs.shape[0]):
            loc, scale = encoder(docs)
            pyro.sample("log_theta", dist.Normal(loc, scale).to_event(1))

    modules = (encoder, decoder)
    return UserProgram(model, guide, {"x": counts()}, "obs", modules=modules)


@program
def log_normal_topics():
    """Proportions by dividing by a sum over dimension 1."""
    encoder, decoder = TopicEncoder(), TopicDecoder()

    def model(docs):
        pyro.module("decoder", decoder)
        with pyro.plate("documents", docs.shape[0]):
            ones = docs.new_ones(docs.shape[0], K)
            theta = pyro.sample("theta", dist.LogNormal(0 * ones, ones).to_event(1))
            probabilities = decoder(theta / theta.sum(1, keepdim=True))
            total_count = int(docs.sum(-1).max())
            pyro.sample("obs", dist.Multinomial(total_count, probabilities), obs=docs)

    def guide(docs):
        pyro.module("encoder", encoder)
        with pyro.plate("documents", docs.shape[0]):
            loc, scale = encoder(docs)
            pyro.sample("theta", dist.LogNormal(loc, scale).to_event(1))

    modules = (encoder, decoder)
    return UserProgram(model, guide, {"x": counts()}, "obs", modules=modules)


@program
def dirichlet_topics():
    encoder = nn.Linear(D, K)

    def model(docs):
        beta = pyro.param(
            "beta",
            lambda: torch.rand(K, D, generator=generator()).softmax(-1),
            constraint=constraints.simplex,
        )
        with pyro.plate("documents", len(docs)):
            theta = pyro.sample("theta", dist.Dirichlet(docs.new_ones(len(docs), K)))
            p = torch.mm(theta, beta)
            pyro.sample("words", dist.Multinomial(int(docs.sum(1).max()), p), obs=docs)

    def guide(docs):
        pyro.module("encoder", encoder)
        with pyro.plate("documents", len(docs)):
            pyro.sample("theta", dist.Dirichlet(1 + F.softplus(encoder(docs / 5))))

    return UserProgram(model, guide, {"x": counts()}, "words", modules=(encoder,))


class CellNet(nn.Module):
    """A fully connected net with BatchNorm; leading dimensions are flattened for it."""

    def __init__(self, inputs, *outputs):
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(inputs, H), nn.BatchNorm1d(H), nn.ReLU())
        self.heads = nn.ModuleList([nn.Linear(H, n) for n in outputs])

    def forward(self, *inputs):
        shape = broadcast_shape(*[i.shape[:-1] for i in inputs]) + (-1,)
        x = torch.cat([i.expand(shape) for i in inputs], dim=-1)
        h = self.fc(x.reshape(-1, x.size(-1)))
        h = h.reshape(x.shape[:-1] + h.shape[-1:])
        return [0.3 * head(h) for head in self.heads]


class SCANVI(nn.Module):
    """Annotation of cells: a library size, two levels of z, labels observed or not."""

    scale_factor, alpha, epsilon = 0.1, 1.0, 5e-3

    def __init__(self):
        super().__init__()
        self.z2_decoder, self.x_decoder = CellNet(L + K, L, L), CellNet(L, D, D)
        self.z2l_encoder, self.z1_encoder = CellNet(D, L, L, 1, 1), CellNet(L + K, L, L)
        self.classifier = CellNet(L, K)

    def model(self, x, y=None):
        pyro.module("scanvi", self)
        theta = pyro.param("dispersion", 10.0 * x.new_ones(D), constraints.positive)
        with pyro.plate("batch", len(x)), poutine.scale(scale=self.scale_factor):
            z1 = pyro.sample("z1", dist.Normal(0, x.new_ones(L)).to_event(1))
            y = pyro.sample("y", dist.OneHotCategorical(logits=x.new_zeros(K)), obs=y)
            z2_loc, z2_scale = self.z2_decoder(z1, y)
            z2 = pyro.sample("z2", dist.Normal(z2_loc, z2_scale.exp()).to_event(1))
            library = pyro.sample("l", dist.LogNormal(2.5, 0.3 * x.new_ones(1)).to_event(1))
            gate_logits, mu = self.x_decoder(z2)
            mu = library * mu.softmax(dim=-1)
            nb_logits = (mu + self.epsilon).log() - (theta + self.epsilon).log()
            x_dist = dist.ZeroInflatedNegativeBinomial(
                gate_logits=gate_logits - 2, total_count=theta, logits=nb_logits
            )
            pyro.sample("x", x_dist.to_event(1), obs=x)

    def guide(self, x, y=None):
        pyro.module("scanvi", self)
        with pyro.plate("batch", len(x)), poutine.scale(scale=self.scale_factor):
            z2_loc, z2_scale, l_loc, l_scale = self.z2l_encoder(torch.log(1 + x))
            q_l = dist.LogNormal(2.5 + l_loc, 0.3 * l_scale.exp())
            pyro.sample("l", q_l.to_event(1))
            z2 = pyro.sample("z2", dist.Normal(z2_loc, z2_scale.exp()).to_event(1))
            (logits,) = self.classifier(z2)
            y_dist = dist.OneHotCategorical(logits=logits)
            if y is None:
                y = pyro.sample("y", y_dist)
            else:
                score = y_dist.log_prob(y)
                pyro.factor("classification_loss", -self.alpha * score, has_rsample=False)
            z1_loc, z1_scale = self.z1_encoder(z2, y)
            pyro.sample("z1", dist.Normal(z1_loc, z1_scale.exp()).to_event(1))


def _scanvi(**labels):
    pair = SCANVI()
    guide = config_enumerate(pair.guide, "parallel", expand=True)
    batch = {"x": counts(), **labels}
    return UserProgram(pair.model, guide, batch, "x", TraceEnum_ELBO, plain=False, modules=(pair,))


@program
def scanvi():
    return _scanvi()


@program
def scanvi_labeled():
    """Where labels are observed, the guide adds a `pyro.factor` of its classifier."""
    return _scanvi(y=one_hot())


@program
def decipher():
    """Cells again: the library size is read off x, and the upper latent is scaled."""
    v_to_z, z_to_x = net(L, L), nn.Sequential(nn.Linear(L, D), nn.Softmax(dim=-1))
    x_to_z, zx_to_v = Encoder(), Encoder(L + D)
    modules = (v_to_z, z_to_x, x_to_z, zx_to_v)
    names = ("v_to_z", "z_to_x", "x_to_z", "zx_to_v")

    def register():
        for name, module in zip(names, modules, strict=True):
            pyro.module(name, module)

    def model(x, beta=0.1):
        register()
        theta = pyro.param("inverse_dispersion", 5.0 * torch.ones(D), constraints.positive)
        with pyro.plate("batch", len(x)):
            with poutine.scale(scale=beta):
                v = pyro.sample("v", dist.Normal(0, x.new_ones(L)).to_event(1))
            z = pyro.sample("z", dist.Normal(v_to_z(v), 1.0).to_event(1))
            library = x.sum(axis=-1, keepdim=True)
            logits = torch.log(library * z_to_x(z) + 1e-6) - torch.log(theta + 1e-6)
            x_dist = dist.NegativeBinomial(total_count=theta, logits=logits)
            pyro.sample("x", x_dist.to_event(1), obs=x)

    def guide(x, beta=0.1):
        register()
        with pyro.plate("batch", len(x)):
            log_x = torch.log1p(x)
            loc, scale = x_to_z(log_x)
            z = pyro.sample("z", dist.Normal(loc, scale).to_event(1))
            loc, scale = zx_to_v(torch.cat([z, log_x], dim=-1))
            with poutine.scale(scale=beta):
                pyro.sample("v", dist.Normal(loc, scale).to_event(1))

    return UserProgram(model, guide, {"x": counts()}, "x", plain=False, modules=modules)


# ---------------------------------------------------------------- invariant to rotation


class SpatialDecoder(nn.Module):
    """Pixels from their coordinates and z."""

    def __init__(self):
        super().__init__()
        self.coord, self.latent, self.out = nn.Linear(2, H), nn.Linear(L, H), nn.Linear(H, 1)

    def forward(self, grid, z):
        batch, pixels = grid.size()[:2]
        h = self.coord(grid.reshape(batch * pixels, -1)).reshape(batch, pixels, -1)
        h = torch.tanh(h + self.latent(z).unsqueeze(1))
        return torch.sigmoid(self.out(h.reshape(batch * pixels, -1)).reshape(batch, pixels))


class RVAE(nn.Module):
    """The latent is split into an angle, a shift and z; the grid is turned for each row."""

    def __init__(self, split):
        super().__init__()
        self.split, self.decoder = split, SpatialDecoder()
        self.encoder = Encoder(16, 3 + L)
        line = torch.linspace(-1, 1, 4)
        self.grid = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)

    def parts(self, z):
        if self.split:
            phi, shift, z = z.split([1, 2, L], dim=-1)
            return phi.squeeze(-1), shift, z
        return z[:, 0], z[:, 1:3], z[:, 3:]

    def turn(self, grid, phi, shift):
        rows = [torch.stack([phi.cos(), phi.sin()], 1), torch.stack([-phi.sin(), phi.cos()], 1)]
        return torch.bmm(grid, torch.stack(rows, dim=1)) + shift

    def model(self, x, **kwargs):
        pyro.module("decoder", self.decoder)
        beta = kwargs.get("scale_factor", 1.0)
        with pyro.plate("data", x.shape[0]):
            loc, scale = x.new_zeros(x.shape[0], 3 + L), x.new_ones(x.shape[0], 3 + L)
            with poutine.scale(scale=beta):
                z = pyro.sample("latent", dist.Normal(loc, scale).to_event(1))
            phi, shift, z = self.parts(z)
            grid = self.grid.expand(x.shape[0], *self.grid.shape)
            grid = self.turn(grid, phi, (0.1 * shift).unsqueeze(1))
            p = self.decoder(grid, z)
            pyro.sample("obs", dist.Bernoulli(p).to_event(1), obs=x.view(-1, 16))

    def guide(self, x, **kwargs):
        pyro.module("encoder", self.encoder)
        beta = kwargs.get("scale_factor", 1.0)
        with pyro.plate("data", x.shape[0]):
            loc, scale = self.encoder(x.view(-1, 16))
            with poutine.scale(scale=beta):
                pyro.sample("latent", dist.Normal(loc, scale).to_event(1))


@program
def rotation_invariant():
    pair = RVAE(split=False)
    return UserProgram(pair.model, pair.guide, {"x": binary(4, 4)}, "obs", modules=(pair,))


@program
def rotation_invariant_split():
    pair = RVAE(split=True)
    return UserProgram(pair.model, pair.guide, {"x": binary(4, 4)}, "obs", modules=(pair,))


class JointVAE(nn.Module):
    """A continuous and a discrete latent, a plate without a size, a scale for each latent."""

    def __init__(self):
        super().__init__()
        self.fc, self.loc, self.log_scale = nn.Linear(16, H), nn.Linear(H, L), nn.Linear(H, L)
        self.alpha = nn.Linear(H, K)
        self.join, self.decoder = ConcatModule(), net(L + K, 16)

    def model(self, x, **kwargs):
        pyro.module("decoder", self.decoder)
        beta = kwargs.get("scale_factor", [1.0, 1.0])
        with pyro.plate("data"):
            loc, scale = x.new_zeros(x.shape[0], L), x.new_ones(x.shape[0], L)
            with poutine.scale(scale=beta[0]):
                z_cont = pyro.sample("latent_cont", dist.Normal(loc, scale).to_event(1))
            alpha = x.new_ones(x.shape[0], K) / K
            with poutine.scale(scale=beta[1]):
                z_disc = pyro.sample("latent_disc", dist.OneHotCategorical(alpha))
            p = torch.sigmoid(self.decoder(self.join(z_cont, z_disc)))
            q = dist.Bernoulli(p, validate_args=False).to_event(1)
            pyro.sample("obs", q, obs=x.view(-1, 16))

    def guide(self, x, **kwargs):
        pyro.module("encoder", self)
        beta = kwargs.get("scale_factor", [1.0, 1.0])
        with pyro.plate("data"):
            h = torch.tanh(self.fc(x.view(-1, 16)))
            loc, scale = 0.3 * self.loc(h), torch.exp(0.3 * self.log_scale(h))
            with poutine.scale(scale=beta[0]):
                pyro.sample("latent_cont", dist.Normal(loc, scale).to_event(1))
            with poutine.scale(scale=beta[1]):
                alpha = torch.softmax(self.alpha(h), dim=-1)
                pyro.sample("latent_disc", dist.OneHotCategorical(alpha))


@program
def joint_vae():
    pair = JointVAE()
    guide = config_enumerate(pair.guide, "parallel", expand=True)
    batch = {"x": binary(4, 4)}
    return UserProgram(pair.model, guide, batch, "obs", TraceEnum_ELBO, modules=(pair,))


# ---------------------------------------------------------------- sequences


class DMM(nn.Module):
    """A deep Markov model: `pyro.markov` over time, a GRU in the guide."""

    def __init__(self, masked=False):
        super().__init__()
        self.masked = masked
        self.trans, self.emitter = Encoder(L), nn.Sequential(nn.Linear(L, D), nn.Sigmoid())
        self.combiner, self.rnn = Encoder(L + H), nn.GRU(D, H, batch_first=True)
        self.z_0, self.z_q_0 = nn.Parameter(torch.zeros(L)), nn.Parameter(torch.zeros(L))
        self.h_0 = nn.Parameter(torch.zeros(1, 1, H))

    def at(self, mask, t):
        return mask[:, t - 1 : t] if mask is not None else True

    def model(self, mini_batch, mask=None):
        pyro.module("dmm", self)
        z_prev = self.z_0.expand(mini_batch.size(0), self.z_0.size(0))
        with pyro.plate("z_minibatch", len(mini_batch)):
            for t in pyro.markov(range(1, mini_batch.size(1) + 1)):
                loc, scale = self.trans(z_prev)
                z_dist = dist.Normal(loc, scale).mask(self.at(mask, t)).to_event(1)
                z_prev = pyro.sample(f"z_{t}", z_dist)
                x_dist = dist.Bernoulli(self.emitter(z_prev)).mask(self.at(mask, t)).to_event(1)
                pyro.sample(f"obs_x_{t}", x_dist, obs=mini_batch[:, t - 1, :])

    def guide(self, mini_batch, mask=None):
        pyro.module("dmm", self)
        h_0 = self.h_0.expand(1, mini_batch.size(0), H).contiguous()
        rnn_output, _ = self.rnn(mini_batch.flip(1), h_0)
        rnn_output = rnn_output.flip(1)
        z_prev = self.z_q_0.expand(mini_batch.size(0), self.z_q_0.size(0))
        with pyro.plate("z_minibatch", len(mini_batch)):
            for t in pyro.markov(range(1, mini_batch.size(1) + 1)):
                loc, scale = self.combiner(torch.cat([z_prev, rnn_output[:, t - 1, :]], dim=1))
                z_dist = dist.Normal(loc, scale).mask(self.at(mask, t)).to_event(1)
                z_prev = pyro.sample(f"z_{t}", z_dist)


@program
def deep_markov_model():
    dmm = DMM()
    return UserProgram(dmm.model, dmm.guide, {"x": binary(3, D)}, "obs_x_2", modules=(dmm,))


@program
def deep_markov_model_masked():
    """Padded sequences: the mask is an argument."""
    dmm = DMM()
    mask = torch.arange(3) < (1 + torch.arange(N) % 3).unsqueeze(1)
    batch = {"x": binary(3, D), "mask": mask}
    return UserProgram(dmm.model, dmm.guide, batch, "obs_x_2", modules=(dmm,))


# ---------------------------------------------------------------- one row per data point


def _linear():
    return nn.Linear(L, D), real()


@program
def auto_normal_all_rows():
    decoder, x = _linear()

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(L), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    guide = AutoNormal(model, init_scale=1.0)
    guide(x)
    return UserProgram(model, guide, {"x": x}, "x", all_rows=True, modules=(decoder, guide))


@program
def auto_normal_create_plates():
    """`create_plates` subsamples the guide's rows as the model does."""
    decoder, x = _linear()

    def plate(x, index=None):
        return pyro.plate("data", N, subsample=index, dim=-1)

    def model(x, index=None):
        pyro.module("decoder", decoder)
        with plate(x, index):
            z = pyro.sample("z", dist.Normal(torch.zeros(L), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    guide = AutoNormal(model, init_scale=1.0, create_plates=plate)
    batch = {"x": x, "index": torch.arange(N)}
    guide(**batch)
    return UserProgram(model, guide, batch, "x", modules=(decoder, guide))


@program
def param_table_all_rows():
    decoder, x = _linear()

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(L), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        loc = pyro.param("loc", lambda: 0.3 * torch.randn(N, L, generator=generator()))
        scale = pyro.param("scale", torch.ones(N, L), constraint=constraints.positive)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    return UserProgram(model, guide, {"x": x}, "x", all_rows=True, modules=(decoder,))


@program
def param_table_by_index():
    """A table, read at the plate's indices; the data set is larger than the batch."""
    decoder, x = _linear()

    def model(x, index):
        pyro.module("decoder", decoder)
        with pyro.plate("data", 3 * N, subsample=index):
            z = pyro.sample("z", dist.Normal(torch.zeros(L), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x, index):
        loc = pyro.param("loc", lambda: 0.3 * torch.randn(3 * N, L, generator=generator()))
        scale = pyro.param("scale", torch.ones(3 * N, L), constraint=constraints.positive)
        with pyro.plate("data", 3 * N, subsample=index) as i:
            pyro.sample("z", dist.Normal(loc[i], scale[i]).to_event(1))

    batch = {"x": x, "index": torch.arange(N)}
    return UserProgram(model, guide, batch, "x", plain=False, modules=(decoder,))


# ---------------------------------------------------------------- plates and scales


def _amortized(plate):
    """A VAE with the plate that `plate(x)` makes, its `index=` an argument if the plate takes it."""
    enc, dec = Encoder(), net(L, D)

    def model(x, index=None):
        pyro.module("dec", dec)
        with plate(x, index):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), L), 1.0).to_event(1))
            pyro.sample("obs", dist.Bernoulli(logits=dec(z)).to_event(1), obs=x)

    def guide(x, index=None):
        pyro.module("enc", enc)
        with plate(x, index):
            loc, scale = enc(x)
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    return model, guide, (enc, dec)


@program
def subsampled_plate():
    """The batch is a part of a larger data set: every term is scaled by N / B."""
    model, guide, modules = _amortized(lambda x, i: pyro.plate("data", 4 * N, subsample=i))
    batch = {"x": binary(), "index": torch.arange(N)}
    return UserProgram(model, guide, batch, "obs", plain=False, modules=modules)


@program
def subsample_size_of_the_batch():
    """`subsample_size`, with a batch that the caller chose: the same scale, without indices."""
    enc, dec = Encoder(), net(L, D)

    def plate(x):
        return pyro.plate("data", size=4 * N, subsample_size=len(x))

    def model(x):
        pyro.module("dec", dec)
        with plate(x):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), L), 1.0).to_event(1))
            pyro.sample("obs", dist.Bernoulli(logits=dec(z)).to_event(1), obs=x)

    def guide(x):
        pyro.module("enc", enc)
        with plate(x):
            loc, scale = enc(x)
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    modules = (enc, dec)
    return UserProgram(model, guide, {"x": binary()}, "obs", plain=False, modules=modules)


@program
def plate_of_fixed_size():
    model, guide, modules = _amortized(lambda x, i: pyro.plate("data", N))
    return UserProgram(model, guide, {"x": binary()}, "obs", all_rows=True, modules=modules)


@program
def annealed_by_poutine_scale():
    enc, dec = Encoder(), net(L, D)

    def model(x, annealing_factor=0.2):
        pyro.module("dec", dec)
        with pyro.plate("data", len(x)):
            with poutine.scale(scale=annealing_factor):
                z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), L), 1.0).to_event(1))
            pyro.sample("obs", dist.Bernoulli(logits=dec(z)).to_event(1), obs=x)

    def guide(x, annealing_factor=0.2):
        pyro.module("enc", enc)
        with pyro.plate("data", len(x)), poutine.scale(scale=annealing_factor):
            loc, scale = enc(x)
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    modules = (enc, dec)
    return UserProgram(model, guide, {"x": binary()}, "obs", plain=False, modules=modules)


@program
def scaled_as_a_whole():
    """`poutine.scale` around model and guide: the loss per data point, as users write it."""
    model, guide, modules = _amortized(lambda x, i: pyro.plate("data", len(x)))
    model, guide = poutine.scale(model, scale=1 / N), poutine.scale(guide, scale=1 / N)
    return UserProgram(model, guide, {"x": binary()}, "obs", plain=False, modules=modules)


@program
def penalty_and_recorded_value():
    """`pyro.factor` outside the plate for an L2 penalty, and `pyro.deterministic`."""
    enc, dec = Encoder(), nn.Linear(L, D)

    def model(x):
        pyro.module("dec", dec)
        pyro.factor("l2", -0.5 * (dec.weight**2).sum())
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), L), 1.0).to_event(1))
            p = pyro.deterministic("p", torch.sigmoid(dec(z)), event_dim=1)
            pyro.sample("obs", dist.Bernoulli(p).to_event(1), obs=x)

    def guide(x):
        pyro.module("enc", enc)
        with pyro.plate("data", len(x)):
            loc, scale = enc(x)
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    modules = (enc, dec)
    return UserProgram(model, guide, {"x": binary()}, "obs", plain=False, modules=modules)


@program
def penalty_per_data_point():
    """`pyro.factor` in the plate: a penalty on the mean activation of the decoder."""
    enc, dec = Encoder(), nn.Linear(L, D)

    def model(x):
        pyro.module("dec", dec)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), L), 1.0).to_event(1))
            p = torch.sigmoid(dec(z))
            pyro.sample("obs", dist.Bernoulli(p).to_event(1), obs=x)
            pyro.factor("sparsity", 3.0 * p.mean(1))

    def guide(x):
        pyro.module("enc", enc)
        with pyro.plate("data", len(x)):
            loc, scale = enc(x)
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    modules = (enc, dec)
    return UserProgram(model, guide, {"x": binary()}, "obs", plain=True, modules=modules)


# ---------------------------------------------------------------- flows and hierarchies


@program
def spline_flow_prior():
    enc, dec = Encoder(), net(L, D)
    flow = T.spline_coupling(L, hidden_dims=[H], count_bins=4)
    with torch.no_grad():  # not far from a normal: importance weights are then of moderate variance
        for parameter in flow.parameters():
            parameter.mul_(0.3)

    def model(x):
        pyro.module("flow", flow)
        pyro.module("dec", dec)
        with pyro.plate("data", len(x)):
            base = dist.Normal(torch.zeros(L), torch.ones(L)).to_event(1)
            z = pyro.sample("z", dist.TransformedDistribution(base, [flow]))
            pyro.sample("obs", dist.Bernoulli(logits=dec(z)).to_event(1), obs=x)

    def guide(x):
        pyro.module("enc", enc)
        with pyro.plate("data", len(x)):
            loc, scale = enc(x)
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    modules = (enc, dec, flow)
    return UserProgram(model, guide, {"x": binary()}, "obs", modules=modules)


class ZukoVAE(nn.Module):
    """Pyro's flow-prior tutorial: prior and posterior are zuko flows, which have no support."""

    def __init__(self):
        super().__init__()
        self.prior = zuko.flows.MAF(features=L, transforms=1, hidden_features=(H,))
        self.encoder = zuko.flows.MAF(L, D, transforms=1, hidden_features=(H,))
        self.decoder = net(L, D)

    def model(self, x):
        pyro.module("prior", self.prior)
        pyro.module("decoder", self.decoder)
        with pyro.plate("batch", len(x)):
            z = pyro.sample("z", ZukoToPyro(self.prior()))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("batch", len(x)):
            pyro.sample("z", ZukoToPyro(self.encoder(x)))


@program
def zuko_flow_prior():
    vae = ZukoVAE()
    return UserProgram(vae.model, vae.guide, {"x": binary()}, "x", modules=(vae,))


@program
def autoregressive_flow_guide():
    enc, dec = Encoder(), net(L, D)
    flow = T.affine_autoregressive(L, hidden_dims=[H])

    def model(x):
        pyro.module("dec", dec)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), L), 1.0).to_event(1))
            pyro.sample("obs", dist.Bernoulli(logits=dec(z)).to_event(1), obs=x)

    def guide(x):
        pyro.module("enc", enc)
        pyro.module("flow", flow)
        with pyro.plate("data", len(x)):
            loc, scale = enc(x)
            q = dist.TransformedDistribution(dist.Normal(loc, scale).to_event(1), [flow])
            pyro.sample("z", q)

    modules = (enc, dec, flow)
    return UserProgram(model, guide, {"x": binary()}, "obs", modules=modules)


@program
def full_covariance_guide():
    enc, tril, dec = nn.Linear(D, L), nn.Linear(D, L * L), net(L, D)

    def model(x):
        pyro.module("dec", dec)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.MultivariateNormal(torch.zeros(L), torch.eye(L)))
            pyro.sample("obs", dist.Bernoulli(logits=dec(z)).to_event(1), obs=x)

    def guide(x):
        pyro.module("enc", enc)
        pyro.module("tril", tril)
        with pyro.plate("data", len(x)):
            a = 0.3 * tril(x).view(-1, L, L)
            covariance = torch.bmm(a, a.transpose(1, 2)) + 0.5 * torch.eye(L)
            q = dist.MultivariateNormal(0.3 * enc(x), covariance_matrix=covariance)
            pyro.sample("z", q)

    modules = (enc, tril, dec)
    return UserProgram(model, guide, {"x": binary()}, "obs", modules=modules)


@program
def ladder():
    """Two layers, top-down on both sides."""
    up, q2, q1, p1, dec = nn.Linear(D, H), Encoder(H), Encoder(H + L), Encoder(L), net(L, D)
    modules = nn.ModuleList([up, q2, q1, p1, dec])

    def model(x):
        pyro.module("ladder", modules)
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(x.new_zeros(len(x), L), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(*p1(z2)).to_event(1))
            pyro.sample("obs", dist.Bernoulli(logits=dec(z1)).to_event(1), obs=x)

    def guide(x):
        pyro.module("ladder", modules)
        with pyro.plate("data", len(x)):
            h = torch.relu(up(x))
            z2 = pyro.sample("z2", dist.Normal(*q2(h)).to_event(1))
            pyro.sample("z1", dist.Normal(*q1(torch.cat([h, z2], 1))).to_event(1))

    return UserProgram(model, guide, {"x": binary()}, "obs", modules=(modules,))


@program
def partial_functions():
    """A temperature bound by `functools.partial`."""
    enc, dec = Encoder(), net(L, D)

    def model(temperature, x):
        pyro.module("dec", dec)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), L), 1.0).to_event(1))
            logits = torch.log_softmax(dec(z) / temperature, dim=1) + 2
            pyro.sample("obs", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(temperature, x):
        pyro.module("enc", enc)
        with pyro.plate("data", len(x)):
            loc, scale = enc(x)
            pyro.sample("z", dist.Normal(loc, scale * temperature).to_event(1))

    pair = [functools.partial(p, 0.9) for p in (model, guide)]
    return UserProgram(*pair, {"x": binary()}, "obs", modules=(enc, dec))


# ---------------------------------------------------------------- refused


@refused
def global_latents():
    """Bayesian linear regression: the weights lie outside the plate."""

    def model(x, y=None):
        w = pyro.sample("w", dist.Normal(torch.zeros(D), 10.0).to_event(1))
        with pyro.plate("data", x.shape[0]):
            pyro.sample("obs", dist.Normal(x @ w, 1.0), obs=y)

    def guide(x, y=None):
        loc = pyro.param("loc", torch.zeros(D))
        scale = pyro.param("scale", torch.ones(D), constraint=constraints.positive)
        pyro.sample("w", dist.Normal(loc, scale).to_event(1))
        with pyro.plate("data", x.shape[0]):
            pass

    return UserProgram(model, guide, {"x": real(), "y": real(1)[:, 0]}, "w")


@refused
def latent_dirichlet_allocation():
    """Plates over topics, documents and words."""

    @config_enumerate
    def model(x):
        with pyro.plate("topics", K):
            topic_words = pyro.sample("topic_words", dist.Dirichlet(torch.ones(5) / 5))
        with pyro.plate("documents", x.shape[0]):
            doc_topics = pyro.sample("doc_topics", dist.Dirichlet(torch.ones(K)))
            with pyro.plate("words", x.shape[1]):
                topic = pyro.sample("word_topics", dist.Categorical(doc_topics))
                pyro.sample("doc_words", dist.Categorical(topic_words[topic]), obs=x.long().T)

    def guide(x):
        with pyro.plate("topics", K):
            a = pyro.param("a", torch.ones(K, 5), constraint=constraints.positive)
            pyro.sample("topic_words", dist.Dirichlet(a))
        with pyro.plate("documents", x.shape[0]):
            b = pyro.param("b", torch.ones(N, K), constraint=constraints.positive)
            pyro.sample("doc_topics", dist.Dirichlet(b[: x.shape[0]]))

    words = torch.randint(5, (N, 4), generator=generator())
    return UserProgram(model, guide, {"x": words}, "topic_words", TraceEnum_ELBO)


@refused
def sequences_in_a_loop():
    """Ragged sequences, one at a time: `for i in pyro.plate(...)`."""

    def model(x, lengths):
        for i in pyro.plate("sequences", len(x)):
            for t in pyro.markov(range(int(lengths[i]))):
                z = pyro.sample(f"z_{i}_{t}", dist.Normal(0.0, 1.0))
                pyro.sample(f"x_{i}_{t}", dist.Normal(z, 1.0), obs=x[i, t])

    def guide(x, lengths):
        for i in pyro.plate("sequences", len(x)):
            for t in pyro.markov(range(int(lengths[i]))):
                pyro.sample(f"z_{i}_{t}", dist.Normal(x[i, t] / 2, 0.7))

    lengths = 1 + torch.arange(N) % 3
    return UserProgram(model, guide, {"x": real(3), "lengths": lengths}, "z_0_0")


@refused
def sparse_gamma_def():
    """A deep exponential family: weights in plates of their own, gamma latents per image."""

    def model(x):
        with pyro.plate("w_plate", L * D):
            w = pyro.sample("w_bottom", dist.Gamma(0.3, 0.3))
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z_bottom", dist.Gamma(0.1 * torch.ones(L), 0.3).to_event(1))
            rate = torch.matmul(z, w.reshape(L, D)) + 1e-3
            pyro.sample("obs", dist.Poisson(rate).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("w_plate", L * D):
            a = pyro.param("a", torch.ones(L * D), constraint=constraints.positive)
            pyro.sample("w_bottom", dist.Gamma(a, a))
        with pyro.plate("data", x.shape[0]):
            b = pyro.param("b", torch.ones(N, L), constraint=constraints.positive)
            pyro.sample("z_bottom", dist.Gamma(b[: x.shape[0]], 1.0).to_event(1))

    return UserProgram(model, guide, {"x": counts()}, "w_bottom")


@refused
def pixels_in_a_plate():
    """Two plates: data and pixels."""
    enc, dec = Encoder(), net(L, D)

    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1, L), 1.0).to_event(1))
            with pyro.plate("pixels", D, dim=-1):
                pyro.sample("pixel", dist.Bernoulli(logits=dec(z).squeeze(-2)), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-2):
            loc, scale = enc(x)
            pyro.sample("z", dist.Normal(loc.unsqueeze(1), scale.unsqueeze(1)).to_event(1))

    return UserProgram(model, guide, {"x": binary()}, "pixel", modules=(enc, dec))


@refused
def no_plate():
    """Rows are part of the event: there are no log-probabilities per data point."""
    enc, dec = Encoder(), net(L, D)

    def model(x):
        pyro.module("dec", dec)
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), L), 1.0).to_event(2))
        pyro.sample("obs", dist.Bernoulli(logits=dec(z)).to_event(2), obs=x)

    def guide(x):
        pyro.module("enc", enc)
        loc, scale = enc(x)
        pyro.sample("z", dist.Normal(loc, scale).to_event(2))

    return UserProgram(model, guide, {"x": binary()}, "z", modules=(enc, dec))


@refused
def bayesian_decoder():
    """A global latent beside local ones: the decoder's bias has a prior."""
    enc, dec = Encoder(), net(L, D)

    def model(x):
        pyro.module("dec", dec)
        bias = pyro.sample("bias", dist.Normal(torch.zeros(D), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), L), 1.0).to_event(1))
            pyro.sample("obs", dist.Bernoulli(logits=dec(z) + bias).to_event(1), obs=x)

    def guide(x):
        pyro.module("enc", enc)
        loc = pyro.param("bias_loc", torch.zeros(D))
        pyro.sample("bias", dist.Delta(loc).to_event(1))
        with pyro.plate("data", len(x)):
            loc, scale = enc(x)
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    return UserProgram(model, guide, {"x": binary()}, "bias", modules=(enc, dec))
