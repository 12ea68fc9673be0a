"""Error of `log_likelihood` where log p(x) is known: a linear-Gaussian VAE, in closed form.

    python -m benchmarks.quality.linear_gaussian [--out FILE.json]

x = W z + b + 0.5 e, with z in 5 and x in 20 dimensions, 200 data points from the model itself,
float64. The guide is the exact posterior with its mean shifted by `shift` and its scale multiplied by
`widen`.
"""

import torch

import pyro_vae as pv
from pyro_vae.conditionals import MLP, MultivariateNormal, NormalLikelihood

from .. import harness

SCALE, D, X = 0.5, 5, 20


def problem(seed, shift=0.0, widen=1.0):
    """`(model, guide, x, log p(x))`."""
    torch.manual_seed(seed)
    linear = MLP(hidden=())
    model = pv.models.VAE((X,), D, NormalLikelihood(SCALE), linear)
    guide = pv.guides.Guide(model, family={"z": MultivariateNormal()}, network=linear)
    decoder, encoder = model.p_x.head, guide.factors["z"].head
    w, b = decoder.maps["z"].weight.data.normal_(), decoder.bias.data
    marginal = torch.distributions.MultivariateNormal(b, w @ w.T + SCALE**2 * torch.eye(X))
    x = marginal.sample((200,))
    covariance = torch.linalg.inv(torch.eye(D) + w.T @ w / SCALE**2)
    gain = covariance @ w.T / SCALE**2  # posterior mean = gain (x - b)
    raw = MultivariateNormal().raw_parameters(shift * torch.ones(D), widen**2 * covariance)
    encoder.bias.data.copy_(raw)
    encoder.bias.data[:D] -= gain @ b
    encoder.maps["x"].weight.data.zero_()[:D] = gain
    return model, guide, x, marginal.log_prob(x)


def main(argv=None):
    arguments = harness.parser(__doc__, seeds=3, cpu_only=True)
    options = harness.parse(arguments, argv)
    torch.set_default_dtype(torch.float64)
    sizes = (1, 10, 100) if options.quick else (1, 10, 100, 1000, 10_000)
    rows = []
    print("guide               samples   mean error    largest |error| of a data point (nats)")
    for name, shift, widen in (
        ("exact posterior", 0, 1),
        ("perturbed", 0.1, 1.3),
        ("far off", 0.3, 2),
    ):
        for k in sizes:
            errors = []
            for seed in range(options.seeds):
                model, guide, x, exact = problem(seed, shift, widen)
                errors.append(pv.evaluate.log_likelihood(model, guide, x, k, seed=seed) - exact)
            errors = torch.stack(errors)
            row = {
                "guide": name,
                "num_samples": k,
                "mean_error": errors.mean().item(),
                "largest_error": errors.abs().max().item(),
            }
            rows.append(row)
            print(f"{name:<18}{k:>9}{row['mean_error']:>13.2e}{row['largest_error']:>13.2e}")
    if options.out:
        harness.write(
            options.out,
            harness.command("benchmarks.quality.linear_gaussian", argv),
            rows=rows,
        )


if __name__ == "__main__":
    main()
