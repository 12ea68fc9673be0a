"""The same steps in JAX and in NumPyro: the workloads' networks, weights and estimators.

Both scan over batches on the device, several steps per call, which is how they are fast. Their
weights are those of the library's pair, and before anything is timed the loss by hand is compared
with torch's at the same noise, and NumPyro's with the loss by hand in the mean.
"""

import os
from functools import partial

import torch

from .workloads import K, batch_of

STEPS = 20  # per call of a scan


def one_thread():
    """Have XLA use one thread; before JAX is imported."""
    flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()


def weights(pair):
    """`{name: array}` of a pair's weights."""
    import jax.numpy as jnp

    return {
        f"{part}.{name}": jnp.asarray(p.detach().cpu().numpy())
        for part, module in zip(("p", "q"), pair, strict=True)
        for name, p in module.named_parameters()
    }


def network(w, name, activation, /, **inputs):
    """A trunk over named inputs and its head."""
    h = trunk(w, name, activation, **inputs)
    return head(w, name, h)


def trunk(w, name, activation, /, **inputs):
    """The hidden layers of a conditional; the inputs' first layers add up."""
    parts = [v @ w[f"{name}.trunk.first.maps.{k}.weight"].T for k, v in inputs.items()]
    h = activation(sum(parts) + w[f"{name}.trunk.first.bias"])
    if f"{name}.trunk.rest.1.weight" in w:
        h = activation(h @ w[f"{name}.trunk.rest.1.weight"].T + w[f"{name}.trunk.rest.1.bias"])
    return h


def head(w, name, h):
    """The output layer of a conditional."""
    return h @ w[f"{name}.head.maps.features.weight"].T + w[f"{name}.head.bias"]


def normal(raw):
    """`(mean, log scale)` of a head's output; the log scale is bounded as in the library."""
    import jax.numpy as jnp

    mean, s = jnp.split(raw, 2, -1)
    return mean, 7 * jnp.tanh(s / 7)


def cross_entropy(logits, x):
    """-log p(x) of each pixel."""
    import jax

    return jax.nn.softplus(logits) - x * logits


# ------------------------------------------------------------ the losses by hand, summed


def vae_loss(w, x, noise):
    """`noise`: z's, `[B, 20]`."""
    import jax
    import jax.numpy as jnp

    mean, s = normal(network(w, "q.factors.z", jax.nn.softplus, x=x))
    z = mean + jnp.exp(s) * noise["z"]
    kl = (0.5 * z**2 - 0.5 * noise["z"] ** 2 - s).sum()
    return cross_entropy(network(w, "p.p_x", jax.nn.softplus, z=z), x).sum() + kl


def gmvae_loss(w, x, noise):
    """`noise`: w's, `[B, 10]`, and z's, `[B, 16]`."""
    import jax
    import jax.numpy as jnp

    h = trunk(w, "q.factors.w", jax.nn.relu, x=x)
    w_mean, w_s = normal(head(w, "q.factors.w", h))
    z_mean, z_s = normal(head(w, "q.factors.z", h))
    latent_w = w_mean + jnp.exp(w_s) * noise["w"]
    z = z_mean + jnp.exp(z_s) * noise["z"]
    mean, s = normal(network(w, "p.p_z", jnp.tanh, w=latent_w).reshape(len(x), K, -1))
    each = (-0.5 * ((z[:, None] - mean) * jnp.exp(-s)) ** 2 - s).sum(-1)
    kl = (0.5 * latent_w**2 - 0.5 * noise["w"] ** 2 - w_s).sum()
    kl += (-0.5 * noise["z"] ** 2 - z_s).sum()
    kl -= (jax.nn.logsumexp(each, -1) - jnp.log(K)).sum()
    return cross_entropy(network(w, "p.p_x", jax.nn.relu, z=z), x).sum() + kl


def m2_loss(w, x, noise):
    """`noise`: z's, `[K, B, 50]`."""
    import jax
    import jax.numpy as jnp

    y = jnp.eye(K)[:, None]
    log_q = jax.nn.log_softmax(network(w, "q.factors.y", jax.nn.relu, x=x)).T
    mean, s = normal(network(w, "q.factors.z", jax.nn.relu, x=x, y=y))
    z = mean + jnp.exp(s) * noise["z"]
    kl = (0.5 * z**2 - 0.5 * noise["z"] ** 2 - s).sum(-1) + log_q + jnp.log(K)
    nll = cross_entropy(network(w, "p.p_x", jax.nn.relu, y=y, z=z), x).sum(-1)
    return (jnp.exp(log_q) * (nll + kl)).sum()


#: name: (the loss, the shapes of its noise for a batch)
LOSSES = {
    "vae": (vae_loss, lambda size: {"z": (size, 20)}),
    "gmvae": (gmvae_loss, lambda size: {"w": (size, 10), "z": (size, 16)}),
    "m2": (m2_loss, lambda size: {"z": (K, size, 50)}),
}


# --------------------------------------------------------------- the programs in NumPyro


def programs(workload, start):
    """`(model, guide)` of NumPyro; their parameters start at the weights `start`."""
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    def parameters(part):
        return {n: numpyro.param(n, v) for n, v in start.items() if n.startswith(part)}

    def latent(name, raw):
        mean, s = normal(raw)
        return numpyro.sample(name, dist.Normal(mean, jnp.exp(s)).to_event(1))

    def standard_normal(name, size):
        return numpyro.sample(name, dist.Normal(jnp.zeros(size), 1).to_event(1))

    def observe(logits, x):
        numpyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def vae_model(x):
        w = parameters("p.")
        with numpyro.plate("data", len(x)):
            z = standard_normal("z", 20)
            observe(network(w, "p.p_x", jax.nn.softplus, z=z), x)

    def vae_guide(x):
        w = parameters("q.")
        with numpyro.plate("data", len(x)):
            latent("z", network(w, "q.factors.z", jax.nn.softplus, x=x))

    def gmvae_model(x):
        w = parameters("p.")
        with numpyro.plate("data", len(x)):
            latent_w = standard_normal("w", 10)
            mean, s = normal(network(w, "p.p_z", jnp.tanh, w=latent_w).reshape(len(x), K, -1))
            components = dist.Normal(mean, jnp.exp(s)).to_event(1)
            weights = dist.Categorical(logits=jnp.zeros((len(x), K)))
            # y is summed in the density of p(z | w), which NumPyro does faster than by enumeration
            z = numpyro.sample("z", dist.MixtureSameFamily(weights, components))
            observe(network(w, "p.p_x", jax.nn.relu, z=z), x)

    def gmvae_guide(x):
        w = parameters("q.")
        h = trunk(w, "q.factors.w", jax.nn.relu, x=x)
        with numpyro.plate("data", len(x)):
            latent("w", head(w, "q.factors.w", h))
            latent("z", head(w, "q.factors.z", h))

    def m2_model(x):
        w = parameters("p.")
        with numpyro.plate("data", len(x)):
            y = numpyro.sample("y", dist.Categorical(logits=jnp.zeros(K)))
            z = standard_normal("z", 50)
            observe(network(w, "p.p_x", jax.nn.relu, y=jnp.eye(K)[y], z=z), x)

    def m2_guide(x):
        w = parameters("q.")
        log_q = network(w, "q.factors.y", jax.nn.relu, x=x)
        with numpyro.plate("data", len(x)):
            categorical = dist.Categorical(logits=log_q)
            y = numpyro.sample("y", categorical, infer={"enumerate": "parallel"})
            latent("z", network(w, "q.factors.z", jax.nn.relu, x=x, y=jnp.eye(K)[y]))

    return {
        "vae": (vae_model, vae_guide),
        "gmvae": (gmvae_model, gmvae_guide),
        "m2": (m2_model, m2_guide),
    }[workload]


def elbo_of(workload):
    """NumPyro's objective: y is enumerated in M2's guide."""
    from numpyro.infer import Trace_ELBO, TraceEnum_ELBO

    return TraceEnum_ELBO() if workload == "m2" else Trace_ELBO()


# ------------------------------------------------------------------------------- checks


def check(workload, make, by_hand):
    """Raise unless the loss by hand is torch's at the same noise, and NumPyro's in the mean."""
    import jax
    import jax.numpy as jnp

    torch.manual_seed(0)
    pair = make()
    w, x = weights(pair), batch_of(16)
    loss, shapes = LOSSES[workload]
    torch.manual_seed(1)
    with torch.no_grad():
        expected = float(by_hand(*pair, x))
    torch.manual_seed(1)  # the same draws in the same order
    noise = {n: jnp.asarray(torch.randn(shape).numpy()) for n, shape in shapes(16).items()}
    actual = float(loss(w, jnp.asarray(x.numpy()), noise))
    if abs(actual - expected) > 1e-4 * abs(expected):
        raise RuntimeError(f"{workload}: JAX's loss by hand is {actual}, torch's {expected}")

    model, guide = programs(workload, w)
    numpyros = jax.jit(
        lambda key: elbo_of(workload).loss(key, {}, model, guide, jnp.asarray(x.numpy()))
    )
    draws = jax.vmap(lambda key: loss(w, jnp.asarray(x.numpy()), draw(key, shapes(16))))
    keys = jax.random.split(jax.random.PRNGKey(0), 400)
    a, b = jnp.stack([numpyros(key) for key in keys]), draws(keys)
    error = jnp.sqrt(a.var() / len(a) + b.var() / len(b))
    if abs(a.mean() - b.mean()) > 4.5 * error:
        raise RuntimeError(f"{workload}: NumPyro's mean loss is {a.mean()}, by hand {b.mean()}")


def draw(key, shapes):
    """Standard normal noise by name."""
    import jax

    keys = jax.random.split(key, len(shapes))
    return {n: jax.random.normal(k, s) for k, (n, s) in zip(keys, shapes.items(), strict=True)}


# -------------------------------------------------------------------------------- steps


def _scan(body, state, x):
    """A call of `STEPS` steps over batches on the device; the state is kept."""
    import jax
    import jax.numpy as jnp

    batches = jnp.stack([jnp.asarray(x.cpu().numpy())] * STEPS)
    run = jax.jit(lambda state, batches: jax.lax.scan(body, state, batches), donate_argnums=0)

    def step():
        nonlocal state
        state, losses = run(state, batches)
        losses.block_until_ready()

    return step


def by_hand(workload, make, x):
    """JAX by hand: value and gradient, JAX's Adam, `STEPS` steps by `lax.scan`."""
    import jax
    from jax.example_libraries import optimizers

    loss, shapes = LOSSES[workload]
    init, update, parameters_of = optimizers.adam(1e-3)

    def body(state, batch):
        count, moments, key = state
        key, one = jax.random.split(key)
        objective = partial(loss, x=batch, noise=draw(one, shapes(len(batch))))
        w = parameters_of(moments)
        value, gradient = jax.value_and_grad(lambda w: objective(w) / len(batch))(w)
        return (count + 1, update(count, gradient, moments), key), value

    return _scan(body, (0, init(weights(make())), jax.random.PRNGKey(0)), x)


def numpyro_svi(workload, make, x):
    """NumPyro's `SVI.update`, `STEPS` steps by `lax.scan`."""
    import jax
    import jax.numpy as jnp
    import numpyro

    model, guide = programs(workload, weights(make()))
    svi = numpyro.infer.SVI(model, guide, numpyro.optim.Adam(1e-3), elbo_of(workload))
    state = svi.init(jax.random.PRNGKey(0), jnp.asarray(x.cpu().numpy()))
    return _scan(lambda state, batch: svi.update(state, batch), state, x)


WAYS = {"JAX by hand, scan": by_hand, "NumPyro SVI, scan": numpyro_svi}
