"""Where there is a GPU, the front door takes it by default, and everything behind it follows."""

import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
import yaml
from commands import main

import pyro_vae as pv
from pyro_vae.train.mixture_initialization import plain_vae

gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use"),
]
SMALL = [
    "--epochs",
    "2",
    "--schedule",
    "constant",
    "--network.hidden",
    "[16]",
    "--num-samples",
    "5",
]
START = ["--initialize.epochs", "2", "--initialize.vaes", "1", "--initialize.fits", "1"]


def test_a_mixture_start_builds_its_vae_where_the_decoder_is():
    """On the meta device, which meets the CPU in one operation as little as a GPU does."""
    model = pv.models.GMVAE((6,), 3, 2, 4)
    guide = pv.guides.Guide(model).to("meta")
    vae, encoder = plain_vae(model.to("meta"), guide)
    assert {t.device.type for t in [*vae.parameters(), *vae.buffers()]} == {"meta"}
    assert list(encoder.factors) == ["z"]


class TestFrontDoor:
    pytestmark = gpu

    def test_the_main_job_runs_from_fit_to_report(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert main(["fit", "gmvae", *SMALL, *START, "--out", "run"]) in (None, 0)
        assert main(
            ["fit", "gmvae", *SMALL, *START, "--epochs", "3", "--out", "run", "--resume"]
        ) in (
            None,
            0,
        )
        assert main(["evaluate", "run", "--num-samples", "5"]) in (None, 0)
        for source in ("prior", "component", "aggregate", "ex-post", "interpolate", "traverse"):
            assert main(["sample", "run", "--source", source, "--num", "10"]) in (None, 0)
        assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
        assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["method"] == "gmvae"
        run = pv.load("run")
        assert next(run.model.parameters()).device.type == "cuda"
        assert run.sample(4).shape == (4, 1, 8, 8)

    @pytest.mark.parametrize("method", ["vade", "m1-m2", "vampprior", "cvae-baseline"])
    def test_every_start_runs(self, method):
        run = pv.method(method, pv.data.load("digits"), epochs=1).fit(progress=False)
        assert next(run.model.parameters()).device.type == "cuda"

    def test_a_user_defined_pair_with_constants_on_the_cpu_is_trained_there(self):
        weights = torch.randn(2, 5)

        def model(x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z @ weights, 1.0).to_event(1), obs=x)

        def guide(x):
            mean = pyro.param("mean", lambda: torch.zeros(5, 2))
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x @ mean, 0.7).to_event(1))

        x = torch.randn(40, 5)
        with pytest.warns(UserWarning, match="is trained on the CPU"):
            run = pv.fit(model, guide, x, epochs=2, progress=False)
        assert len(run.history) == 2
        with pytest.raises(pv.UserError, match="device"):
            pv.fit(model, guide, x, epochs=2, device="cuda", progress=False)

    def test_data_on_the_gpu_are_drawn_as_data_on_the_cpu_are(self):
        x, y = torch.rand(60, 1, 4, 4), torch.arange(60) % 3
        both = []
        for device in ("cpu", "cuda"):
            values = x[::2], x[1::2].round()  # gray to train on, binary to validate on
            parts = [pv.data.Split(v.to(device), y[::2].to(device)) for v in values]
            data = pv.data.Data(*parts, binarize="dynamic", likelihood="bernoulli", num_classes=3)
            both += [data.keep_labels(6, seed=1), data.with_condition(pv.data.Labels(3))]
            model = pv.models.VAE((1, 4, 4), 2)
            run = pv.fit(model, pv.guides.Guide(model), data, epochs=2, progress=False)
            assert next(run.model.parameters()).device.type == "cuda"
            test = data.observed_split("valid")
            assert pv.evaluate.elbo(model, run.guide, test.x).device.type == device
            assert (
                0 <= pv.evaluate.mmd_two_sample_test(test.x, data.train.x, seed=0)["p_value"] <= 1
            )
        for on_cpu, on_gpu in zip(both[:2], both[2:], strict=True):
            expected = on_cpu.observed_split("train").arrays()
            drawn = on_gpu.observed_split("train").arrays()
            assert drawn.keys() == expected.keys()
            assert all(torch.equal(drawn[n].cpu(), expected[n]) for n in expected)

    def test_a_pair_in_float64_trains_as_one_graph(self):
        torch.set_default_dtype(torch.float64)
        model = pv.models.VAE((5,), 2, "normal")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            run = pv.fit(
                model, pv.guides.Guide(model), torch.randn(64, 5), epochs=3, batch_size=32,
                compile="recorded", progress=False,
            )  # fmt: skip
        assert run.history[-1]["loss"] < run.history[0]["loss"]
