"""Every method learns something of the digits within seconds: more than the pixels' frequencies."""

import pytest
from presets import configured

import pyro_vae as pv
from pyro_vae import methods
from pyro_vae.programs.inspection import is_per_datum
from pyro_vae.report.summary import inputs

SHORT = {
    "hidden": [64], "latent_dim": 8, "w_dim": 2, "epochs": 15, "batch_size": 64, "lr": 5e-3,
    "warmup": 0, "weight_decay": 0.0, "component": "Normal", "prior.family": "Normal",
    "initialize.epochs": 15, "initialize.lr": 5e-3, "vaes": 1, "fits": 1, "draws": 1,
    "initialize.weight_decay": 0.0,
}  # fmt: skip
OWN = {
    "vae-per-datum": {"epochs": 80, "lr": 2e-2},  # a row is seen once an epoch
    "m2-clustering": {"likelihood": "binomial"},
    "cvae-baseline": {"initialize.epochs": 5, "initialize.lr": 1e-3},
}
QUICK = ("vae", "vade", "m2", "cvae")
#: Nats above the pixels' frequencies, of 64 gray pixels and of 48 binary ones with 16 given.
MARGIN, CONDITIONAL_MARGIN = 80.0, 1.0


def frequencies(data, likelihood):
    """Mean log-likelihood of the test data, every pixel by its own training frequency."""
    train, test = data.observed_split("train").x, data.observed_split("test").x
    logits = train.mean(0).clamp(1e-3, 1 - 1e-3).logit()
    return float(likelihood(test.shape[1:], logits=logits).log_prob(test).mean())


@pytest.mark.parametrize("name", [
    pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in methods.METHODS
])  # fmt: skip
def test_every_method_learns_more_of_digits_than_pixel_frequencies(name):
    config = configured(name, **{**SHORT, **OWN.get(name, {})})
    run = methods.Method(config).fit(device="cpu", progress=False)
    model, guide, data = run.model, run.guide, run.data
    split = "train" if is_per_datum(guide) else "test"
    x, _, others = inputs(model, guide, data, split)
    bound = float(pv.evaluate.elbo(model, guide, x, num_samples=5, **others).mean())
    baseline = frequencies(data, model.p_x.family)
    if name == "vae-constants":  # its latent says nothing of x: the frequencies, and no more
        assert abs(bound - baseline) < 3
    else:
        assert bound - baseline > (CONDITIONAL_MARGIN if "c" in others else MARGIN)
