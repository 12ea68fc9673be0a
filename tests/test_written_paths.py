"""Where a run and a comparison write: missing folders are made, and an impossible path is one line."""

from functools import partial

import pytest
import torch

import pyro_vae as pv
from pyro_vae.methods.new_files import write_codes

NET = pv.conditionals.MLP((4,))
QUIET = {"progress": False, "compile": False, "epochs": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "table.csv"
    rows = torch.randn(30, 2, generator=torch.Generator().manual_seed(0)).tolist()
    path.write_text("a,b\n" + "\n".join(f"{a},{b}" for a, b in rows) + "\n")
    return pv.method("vae", path, latent_dim=2, epochs=1).fit(progress=False)


@pytest.fixture(scope="module")
def writers(run):
    """`{name: (write to a path, the name of the file; None: the path is a folder)}`."""
    vae = partial(pv.models.VAE, (2,), 2, "normal", NET)
    comparison = pv.compare(
        vae, {"a": partial(pv.guides.Guide, network=NET)}, torch.randn(20, 2), seeds=1,
        num_samples=5, num_gap_data=0, **QUIET,
    )  # fmt: skip
    return {
        "report": (lambda path: run.report(path, num_samples=5), "report.html"),
        "explore": (run.explore, "explore.html"),
        "encoder": (run.export_encoder, "encoder.pt2"),
        "decoder": (run.export_decoder, "decoder.pt2"),
        "codes": (lambda path: write_codes(run, None, path), "codes.csv"),
        "sheet": (lambda path: run.sheet(num=4).write(path, run.data), "samples.npz"),
        "save": (run.save, None),
        "export": (run.export, None),
        "comparison": (comparison.save, None),
    }


NAMES = "report", "explore", "encoder", "decoder", "codes", "sheet", "save", "export", "comparison"


@pytest.mark.parametrize("name", NAMES)
def test_missing_folders_are_made(writers, tmp_path, name):
    write, file = writers[name]
    path = tmp_path / "new" / "folder" / (file or "out")
    write(path)
    assert path.is_file() if file else any(path.iterdir())


def test_samples_are_files_of_the_kinds_that_they_have(run, tmp_path):
    sheet = run.sheet(num=4)
    for name in ("v1.2", "v1.2.csv", "v1.2.png"):
        written = sheet.write(tmp_path / name, run.data)
        assert [path.name for path in written] == ["v1.2.npz", "v1.2.csv", "v1.2.png"]
    with pytest.raises(pv.UserError, match="samples are s.npz, s.csv, s.png, and no .jpg file"):
        sheet.write(tmp_path / "s.jpg", run.data)
    x = torch.randn(30, 3)
    arrays = pv.method("vae", pv.data.from_arrays(x), latent_dim=2, epochs=1).fit(progress=False)
    with pytest.raises(pv.UserError, match="samples are s.npz, and no .csv file"):
        arrays.sheet(num=4).write(tmp_path / "s.csv", arrays.data)


@pytest.mark.parametrize("name", NAMES)
def test_a_path_that_cannot_be_written_is_one_line(writers, tmp_path, name):
    write, file = writers[name]
    (tmp_path / "file").write_text("")
    wrong = [tmp_path / "file" / (file or "out")]
    if file is None:
        wrong.append(tmp_path / "file")
    else:
        (tmp_path / file).mkdir()
        wrong.append(tmp_path / file)
    for path in wrong:
        with pytest.raises(pv.UserError, match="cannot write to") as error:
            write(path)
        assert "\n" not in str(error.value)
