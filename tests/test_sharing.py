"""Sharing a trained pair: a safetensors file with its card, and programs of torch alone."""

import json
import struct
import subprocess
import sys

import pytest
import torch
from presets import configured
from sampling import covering
from test_train import quiet, same_tensors, weights

import pyro_vae as pv
from pyro_vae import methods
from pyro_vae.conditionals import MLP
from pyro_vae.methods import sharing
from pyro_vae.train.safetensors import read_tensors, write_tensors

NET = MLP((8,))
X = (torch.rand(60, 6, generator=torch.Generator().manual_seed(0)) > 0.5).float()
SMALL = {"hidden": [8], "latent_dim": 3, "epochs": 1, "compile": False, "initialize": None}


def pair(seed=0):
    torch.manual_seed(seed)
    model = pv.models.MixtureVAE((6,), 3, 2, network=NET)
    return model, pv.guides.Guide(model, network=NET)


def fit(programs, **options):
    data = pv.data.from_arrays(X, valid=12, test=0, name="bits")
    return quiet(*programs, data, 2, **{"batch_size": 16, "compile": False, **options})


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    programs = pair()
    path = fit(programs).export(tmp_path_factory.mktemp("shared") / "pair.safetensors")
    return programs, path


def refused(match, function, *arguments, **options):
    with pytest.raises(pv.UserError, match=match) as e:
        function(*arguments, **options)
    assert "\n" not in str(e.value)


# ------------------------------------------------------------------- the format


TENSORS = {
    "a": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "b": torch.tensor([True, False, True]),
    "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "number": torch.tensor(7),
    "empty": torch.zeros(0, 3),
}


def test_a_file_is_as_the_format_says(tmp_path):
    """Written by hand from the description of the format."""
    header = {
        "__metadata__": {"who": "me"},
        "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "b": {"dtype": "I16", "shape": [1, 2], "data_offsets": [8, 12]},
    }
    text = json.dumps(header).encode()
    content = struct.pack("<2f", 1.5, -3.0) + struct.pack("<2h", 7, -2)
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(text)) + text + content)
    tensors, metadata = read_tensors(tmp_path / "x")
    assert metadata == {"who": "me"} and list(tensors) == ["a", "b"]
    assert torch.equal(tensors["a"], torch.tensor([1.5, -3.0]))
    assert torch.equal(tensors["b"], torch.tensor([[7, -2]], dtype=torch.int16))
    write_tensors(tmp_path / "y", tensors, metadata)
    written = (tmp_path / "y").read_bytes()
    (length,) = struct.unpack("<Q", written[:8])
    assert json.loads(written[8 : 8 + length]) == header and written[8 + length :] == content


def test_the_format_is_that_of_its_reference_library(tmp_path):
    reference = pytest.importorskip("safetensors.torch")
    write_tensors(tmp_path / "ours", TENSORS, {"who": "me"})
    assert same_tensors(reference.load_file(tmp_path / "ours"), TENSORS)
    reference.save_file(TENSORS, tmp_path / "theirs", {"who": "me"})
    tensors, metadata = read_tensors(tmp_path / "theirs")
    assert same_tensors(tensors, TENSORS) and metadata == {"who": "me"}


def crafted(header, content=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + content


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


@pytest.mark.parametrize(
    "content",
    [
        b"", b"short", crafted(b"", length=2**63), crafted(b"{}", length=10**9), crafted(b"{"),
        crafted([]), crafted({"a": 3}), crafted({"a": {}}), crafted(b"[" * 100_000),
        crafted({"__metadata__": {"a": 3}}), crafted({"__metadata__": 3}),
        crafted(entry("F31"), bytes(4)), crafted(entry(shape=[2]), bytes(4)),
        crafted(entry(shape=[10**30]), bytes(4)), crafted(entry(shape=[-1]), bytes(4)),
        crafted(entry(shape=[1.0]), bytes(4)), crafted(entry(shape="1"), bytes(4)),
        crafted(entry(offsets=[0, 8]), bytes(4)), crafted(entry(offsets=[4, 8]), bytes(8)),
        crafted(entry(), bytes(5)), crafted(entry(offsets=["0", "4"]), bytes(4)),
        crafted({**entry(), "b": entry()["a"]}, bytes(4)),  # both have the same bytes
    ],
)  # fmt: skip
def test_a_crafted_file_is_refused(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    refused("x.safetensors is damaged, or not a safetensors file", read_tensors, path)
    refused("x.safetensors is damaged, or not a safetensors file", pv.load, path)


# ------------------------------------------------------------------- a pair


def test_an_exported_pair_is_loaded_with_its_weights(exported):
    programs, path = exported
    loaded = pv.load(path)
    assert same_tensors(weights(*programs), weights(loaded.model, loaded.guide))
    assert torch.equal(
        pv.evaluate.elbo(*programs, X), pv.evaluate.elbo(loaded.model, loaded.guide, X)
    )
    assert len(loaded.data.train) == 0 and not loaded.model.training


@pytest.mark.parametrize("name", covering(list(methods.METHODS), every=2))
def test_every_methods_pair_is_exported_and_built_again(tmp_path, name):
    method = pv.method(name, **{k: v for k, v in configured_small(name).items()})
    model, guide = method.build()
    run = pv.Run(model.eval(), guide.eval(), data=method.data, config=method.config)
    loaded = pv.load(run.export(tmp_path / "model.safetensors"))
    assert same_tensors(weights(model, guide), weights(loaded.model, loaded.guide))
    assert str(model) == str(loaded.model) and str(guide) == str(loaded.guide)


def configured_small(name):
    """The options that the method has of a small configuration."""
    config = configured(name, **SMALL)
    return {k: v for k, v in config.items() if k not in ("method", "data")}


def test_the_data_of_an_export_must_be_those_of_its_run(tmp_path):
    x = torch.randn(60, 4) * 3 + 1
    method = pv.method("vae", x, hidden=[8], epochs=1, compile=False)
    run = method.fit(progress=False, device="cpu")
    path = run.export(tmp_path / "a.safetensors")
    loaded = pv.load(path, data=x)
    torch.testing.assert_close(loaded.data.train.x, method.data.train.x)
    assert loaded.evaluate("train", 2)["elbo"] == pytest.approx(run.evaluate("train", 2)["elbo"])
    refused("was trained on other data", pv.load, path, data=x[:30])
    # standardized, they would have the same numbers
    refused("was trained on other data .mean of x", pv.load, path, data=x * 100)
    with pytest.raises(pv.UserError, match="not here .an export has no data"):
        pv.load(path).evaluate()


def test_an_export_to_a_folder_has_a_model_card(tmp_path):
    run = fit(pair(), out=tmp_path / "run")
    run.evaluate("valid", num_samples=2, write=True)
    path = run.export(tmp_path / "shared", license="CC-BY-4.0")
    assert path == tmp_path / "shared" / "model.safetensors"
    card = (tmp_path / "shared" / "README.md").read_text()
    results = json.loads((tmp_path / "run" / "results-valid.json").read_text())
    for part in (
        "license: \"CC-BY-4.0\"", "# MixtureVAE with guide Guide", "bits: 48 train, 12 valid",
        f"| ELBO, valid, nats per data point | {results['elbo']:.4g} |",
        f"weights of epoch {run.best_epoch}", "**License.** CC-BY-4.0.",
    ):  # fmt: skip
        assert part in card
    loaded = pv.load(tmp_path / "shared")
    assert same_tensors(weights(run.model, run.guide), weights(loaded.model, loaded.guide))
    refused("exists already: name another path", run.export, tmp_path / "shared")
    card = fit(pair()).export(tmp_path / "plain").with_name("README.md").read_text()
    assert "**License.** not stated." in card and "license:" not in card


def test_the_weights_in_use_are_exported(tmp_path):
    run = fit(pair(), lr=0.5)
    run.use("last").export(tmp_path / "last.safetensors")
    loaded = pv.load(tmp_path / "last.safetensors")
    assert same_tensors(weights(run.model, run.guide), weights(loaded.model, loaded.guide))


class Mine(pv.models.VAE):
    """A class that the library cannot find again."""


def test_a_user_defined_pair_is_loaded_into_its_modules(tmp_path):
    def build(seed):
        torch.manual_seed(seed)
        model = Mine((6,), 2, network=NET)
        return model, pv.guides.Guide(model, network=NET)

    programs, other = build(0), build(1)
    path = fit(programs).export(tmp_path / "mine.safetensors")
    refused("does not say how its pair was built", pv.load, path)
    pv.load(path, *other)
    assert same_tensors(weights(*programs), weights(*other))
    refused("pass both model= and guide=", pv.load, path, other[0])
    refused("does not fit this", pv.load, path, *pair())


def test_frozen_parameters_are_frozen_again(tmp_path):
    programs = pair()
    programs[0].p_x.requires_grad_(False)
    loaded = pv.load(fit(programs).export(tmp_path / "a.safetensors"))
    frozen = {n for n, p in loaded.model.named_parameters() if not p.requires_grad}
    assert frozen and all(n.startswith("p_x") for n in frozen)


def test_a_changed_byte_of_an_export_is_detected(exported, tmp_path):
    whole = exported[1].read_bytes()
    path = tmp_path / "bad.safetensors"
    for position in range(0, len(whole), max(1, len(whole) // 120)):
        damaged = bytearray(whole)
        damaged[position] ^= 0x04
        path.write_bytes(damaged)
        refused("bad.safetensors", pv.load, path)


def changed(path, target, change):
    """A copy of an export whose record is changed, with a digest that fits."""
    tensors, texts = read_tensors(path)
    record = json.loads(texts["pyro_vae"])
    del record["digest"]
    change(record)
    record["digest"] = pv.train.checkpoint.digest([tensors, record])
    write_tensors(target, tensors, {**texts, "pyro_vae": json.dumps(record)})
    return target


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda r: r.update(format="pyro_vae export 99"), "use the version that wrote it"),
        (lambda r: r.update(format="another"), "was not written by run.export"),
        (lambda r: r.update(pair=3), "does not say how its pair was built"),
        (lambda r: r["pair"]["model"].update({"class": "exec"}), "does not say how its pair was"),
        (lambda r: r["pair"]["model"]["args"].__setitem__(0, [10**9]), "weights are not those of"),
        (lambda r: r["pair"]["model"]["args"].__setitem__(1, 10**9), "components are too many"),
        (lambda r: r.update(config={"method": "vae"}), "does not say how|weights are not those"),
        (lambda r: r.update(config={"method": "nope"}), "unknown method|does not say how"),
        (lambda r: r.update(frozen=3), "is damaged"),
        (lambda r: r.update(frozen=[[], 3]), "is damaged"),
        (lambda r: r.update(more=1), "is damaged"),
    ],
)
def test_a_crafted_description_is_refused_and_takes_no_memory(exported, tmp_path, change, message):
    refused(message, pv.load, changed(exported[1], tmp_path / "bad.safetensors", change))


def test_another_programs_file_is_refused(tmp_path):
    write_tensors(tmp_path / "a.safetensors", TENSORS, {"format": "pt"})
    refused("was not written by run.export", pv.load, tmp_path / "a.safetensors")


# ------------------------------------------------------------------- programs of torch alone


CASES = {
    "vae": lambda: (pv.models.VAE((6,), 2, network=NET), {}),
    "full covariance": lambda: (
        pv.models.VAE((6,), 2, network=NET),
        {"family": {"z": pv.conditionals.MultivariateNormal()}},
    ),
    "mixture posterior": lambda: (
        pv.models.VAE((6,), 2, network=NET),
        {"family": {"z": pv.conditionals.MixtureOfNormals(3)}},
    ),
    "gmvae": lambda: (pv.models.GMVAE((6,), 3, network=NET), {}),
    "m2": lambda: (pv.models.M2((6,), 3, network=NET), {}),
    "m1m2": lambda: (pv.models.M1M2((6,), 3, network=NET), {}),
    "hierarchical": lambda: (pv.models.HierarchicalVAE((6,), network=NET), {}),
    "auxiliary": lambda: (pv.models.AuxiliaryDGM((6,), 3, network=NET), {}),
    "cvae": lambda: (pv.models.CVAE((6,), (2,), 2, network=NET), {}),
}


@pytest.mark.parametrize("name", covering(list(CASES), every=2, first=1))
def test_exported_encoders_and_decoders_equal_ours_for_any_batch_size(tmp_path, name):
    torch.manual_seed(0)
    model, options = CASES[name]()
    guide = pv.guides.Guide(model, network=NET, **options)
    x, c = X[:7], torch.randn(7, 2)
    others = {"c": c} if name == "cvae" else {}
    example = {"x": x[:3], **{n: v[:3] for n, v in others.items()}}
    encoder = torch.export.load(
        pv.generate.export_encoder(model, guide, example, tmp_path / "encoder.pt2")
    ).module()
    decoder = torch.export.load(
        pv.generate.export_decoder(model, guide, example, tmp_path / "decoder.pt2")
    ).module()
    for size in (7, 3, 1):
        batch = [v[:size] for v in (x, *others.values())]
        codes = encoder(*batch)
        inputs = {n: v[:size] for n, v in others.items()}
        wanted = pv.evaluate.encode(model, guide, x[:size], **inputs)
        assert wanted.keys() <= codes.keys()
        for latent, value in wanted.items():
            torch.testing.assert_close(codes[latent], value, atol=1e-5, rtol=1e-5)
        if "y" in codes:
            wanted_y = pv.evaluate.responsibilities(model, guide, x[:size], "y", 1)
            if name == "m2":  # y depends on x alone
                torch.testing.assert_close(codes["y"], wanted_y, atol=1e-5, rtol=1e-5)
        draw = pv.evaluate.sample_posterior(model, guide, x[:size], **inputs)
        parents = {**draw, **inputs}
        parents = {n: parents[n] for n in model.p_x.given}
        torch.testing.assert_close(decoder(*parents.values()), model.p_x(**parents).mean)


def test_an_exported_image_encoder_scales_its_pixels(tmp_path):
    torch.manual_seed(0)
    model = pv.models.VAE((1, 8, 8), 2, "binomial", pv.conditionals.Conv((4,)))
    guide = pv.guides.Guide(model, network=pv.conditionals.Conv((4,)))
    assert guide.input_scaling
    x = torch.rand(5, 1, 8, 8)
    path = pv.generate.export_encoder(model, guide, {"x": x}, tmp_path / "e.pt2")
    found = torch.export.load(path).module()(x)["z"]
    torch.testing.assert_close(
        found, pv.evaluate.encode(model, guide, x)["z"], atol=1e-5, rtol=1e-5
    )


def test_an_exported_encoder_takes_missing_values(tmp_path):
    """NaN is missing where the model's likelihood ignores it, in the program as in the library."""
    torch.manual_seed(0)
    likelihood = pv.conditionals.IgnoreMissing(pv.conditionals.likelihood("normal"))
    model = pv.models.VAE((6,), 2, likelihood, NET)
    guide = pv.guides.Guide(model, network=NET, input_scaling={"x": (0.5, 2.0)})
    x = torch.where(torch.rand(7, 6) < 0.3, torch.nan, torch.randn(7, 6))
    path = pv.generate.export_encoder(model, guide, {"x": x}, tmp_path / "e.pt2")
    codes = torch.export.load(path).module()(x)["z"]
    wanted = pv.evaluate.encode(model, guide, x)["z"]
    assert wanted.isfinite().all()
    torch.testing.assert_close(codes, wanted, atol=1e-5, rtol=1e-5)


def test_an_export_that_cannot_be_written_is_refused(tmp_path):
    model = pv.models.VAE((6,), 2, network=NET)
    guide = pv.guides.Guide(model, network=NET)
    (tmp_path / "file").write_text("")
    for example, path, message in (
        ({"x": X}, tmp_path / "file" / "e.pt2", "cannot write to"),
        ({"x": X}, tmp_path, "path must be a file NAME.pt2"),
        ({"image": X}, tmp_path / "e.pt2", "example= needs the data"),
    ):
        for export in (pv.generate.export_encoder, pv.generate.export_decoder):
            refused(message, export, model, guide, example, path)


def test_an_exported_program_runs_without_this_library(tmp_path):
    programs = pair()
    run = fit(programs)
    path = run.export_encoder(tmp_path / "encoder.pt2")
    run.export_decoder(tmp_path / "decoder.pt2")
    script = (
        "import sys, torch\n"
        f"means = torch.export.load({str(path)!r}).module()(torch.ones(4, 6))['z']\n"
        f"images = torch.export.load({str(tmp_path / 'decoder.pt2')!r}).module()(means)\n"
        "assert 'pyro' not in sys.modules and 'pyro_vae' not in sys.modules\n"
        "print(images.shape, float(means.double().sum()))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    shape, _, total = done.stdout.rpartition(" ")
    assert shape == "torch.Size([4, 6])"
    wanted = pv.evaluate.encode(*programs, torch.ones(4, 6))["z"].double().sum()
    assert float(total) == pytest.approx(float(wanted), abs=1e-5)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"given": {"z": ["index"]}, "num_data": 60}, "row per training data point"),
        ({"given": {"z": []}}, "no latent of the guide depends on x"),
        ({"family": {"z": pv.conditionals.Flow("maf")}}, "has no mean"),
    ],
)
def test_a_guide_without_an_encoder_is_refused(tmp_path, options, message):
    model = pv.models.VAE((6,), 2, network=NET)
    guide = pv.guides.Guide(model, network=NET, **options)
    example = {"x": X, **({"index": torch.arange(60)} if "num_data" in options else {})}
    refused(message, pv.generate.export_encoder, model, guide, example, tmp_path / "e.pt2")


def test_other_guides_and_models_are_refused(tmp_path):
    model = pv.models.VAE((6,), 2, network=NET)
    refused("takes a pv.guides.Guide", pv.generate.export_encoder, model,
            pv.guides.PriorGuide(model), {"x": X}, tmp_path / "e.pt2")  # fmt: skip
    refused("takes a model whose p_x is", pv.generate.export_decoder, lambda x: None,
            lambda x: None, {"x": X}, tmp_path / "d.pt2")  # fmt: skip


def test_a_card_of_a_method_names_its_paper():
    method = pv.method("vae", "digits", hidden=[8])
    run = pv.Run(*method.build(), data=method.data, config=method.config)
    record = {"data": method.data.describe()}
    card = sharing.model_card(run, record, None)
    assert "# vae" in card and method.preset.paper in card and "digits: 1257 train" in card
