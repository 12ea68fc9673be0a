"""Settings of the clustering default, compared by the validation bound, without labels.

    python -m benchmarks.quality.clustering_settings [--seeds 2] [--out FILE.json]

Each line varies one setting of `pyro-vae fit gmvae` on digits, with a single first VAE.
"""

import pyro_vae as pv

from .. import harness

VARIATIONS = {
    "the default": {},
    "latent_dim 10": {"latent_dim": 10},
    "latent_dim 16": {"latent_dim": 16},
    "latent_dim 32": {"latent_dim": 32},
    "diagonal components": {"component": "Normal"},
    "correlations of y alone": {"component": "ConstantCorrelationNormal"},
    "two layers of 128": {"hidden": [128, 128]},
    "weight_decay 0": {"initialize.weight_decay": 0.0},
    "weight_decay 0.5": {"initialize.weight_decay": 0.5},
    "x not centered": {"center": False},
    "start on means": {"initialize.draws": 0},
    "start with batches of 256": {"initialize.batch_size": 256},
    "start of 300 epochs, batches of 256": {
        "initialize.epochs": 300,
        "initialize.batch_size": 256,
    },
    "start with lr 2e-3": {"initialize.lr": 2e-3},
    "then batches of 128, lr 5e-4": {"batch_size": 128, "lr": 5e-4},
    "then 60 epochs, lr 1.5e-3": {"epochs": 60, "lr": 1.5e-3},
    "half the epochs": {"epochs": 50, "initialize.epochs": 75},
    "10 mixture fits": {"initialize.fits": 10},
    "no mixture start": {"initialize": None, "epochs": 400, "lr": 2e-3},
}


def validation_elbo(change, seed, device):
    """Mean validation ELBO of one run, 20 samples per data point."""
    one = {} if "initialize" in change else {"initialize.vaes": 1}
    method = pv.method("gmvae", "digits", **one, **change, seed=seed)
    data = method.data
    x = pv.data.Data(pv.data.Split(data.train.x), pv.data.Split(data.valid.x), name="unlabelled")
    model, guide = method.build()
    pv.fit(model, guide, x, **method.fit_options(), device=device, progress=False)
    return float(pv.evaluate.elbo(model, guide, data.valid.x, num_samples=20).mean())


def main(argv=None):
    arguments = harness.parser(__doc__, seeds=2)
    options = harness.parse(arguments, argv)
    table, variations = {}, VARIATIONS
    if options.quick:
        options.seeds = 1
        variations = {"no mixture start": {"initialize": None, "epochs": 2}}
    for name, change in variations.items():
        elbos = [validation_elbo(change, seed, options.device) for seed in range(options.seeds)]
        table[name] = harness.mean_sd(elbos)
        print(f"{name:<36}{table[name]['mean']:>9.2f} ± {table[name]['sd']:.2f}", flush=True)
    if options.out:
        command = harness.command("benchmarks.quality.clustering_settings", argv)
        harness.write(options.out, command, validation_elbo=table)


if __name__ == "__main__":
    main()
