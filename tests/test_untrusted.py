"""Files that others wrote: crafted, truncated, foreign and linked ones give one line and run nothing."""

import io
import json
import os
import pickle
import shutil
import zipfile

import pytest
import torch
from test_train import quiet

import pyro_vae as pv
from pyro_vae.conditionals import MLP
from pyro_vae.methods import read_config
from pyro_vae.train import checkpoint, load_weights
from pyro_vae.train.untrusted import Unsafe, check_content

NET = MLP((8,))
X = (torch.rand(60, 6, generator=torch.Generator().manual_seed(0)) > 0.5).float()


def pair():
    torch.manual_seed(0)
    model = pv.models.VAE((6,), 2, network=NET)
    return model, pv.guides.Guide(model, network=NET)


def fit(programs, epochs=1, **options):
    return quiet(*programs, X, epochs, **{"batch_size": 16, "compile": False, **options})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    fit(pair(), out=folder)
    return folder


def refused(match, function, *arguments, **options):
    with pytest.raises(pv.UserError, match=match) as e:
        function(*arguments, **options)
    assert "\n" not in str(e.value)


class Evil:
    def __reduce__(self):
        return (os.system, ("touch was_here",))


# ------------------------------------------------------------------- checkpoints


def compressed(state):
    """The checkpoint with its parts compressed: a gigabyte of zeros would be a megabyte."""
    whole, packed = io.BytesIO(), io.BytesIO()
    torch.save(state, whole)
    with (
        zipfile.ZipFile(whole) as source,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    return packed.getvalue()


def saved(value):
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def nested(depth, width):
    """A list of `width ** depth` items, in a file of a few hundred bytes."""
    value = [0]
    for _ in range(depth):
        value = [value] * width
    return value


def itself():
    value = []
    value.append(value)
    return value


def legacy(value):
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


HEAD = {"format": checkpoint.FORMAT}
CRAFTED = {
    "compressed": lambda state: compressed({**state, "zeros": torch.zeros(10**7)}),
    "code in a pickle": lambda state: pickle.dumps(Evil()),
    "code in an archive": lambda state: saved({**HEAD, "x": Evil()}),
    "code in an old file": lambda state: legacy({**HEAD, "x": Evil()}),
    "a repeated number": lambda state: saved({**HEAD, "x": torch.zeros(1).expand(10**13)}),
    "many views": lambda state: saved({**HEAD, "x": [torch.zeros(10**5)] * 1000}),
    "a tower of lists": lambda state: saved({**HEAD, "x": nested(30, 10)}),
    "a deep list": lambda state: saved({**HEAD, "x": nested(300, 1)}),
    "a list in itself": lambda state: saved({**HEAD, "x": itself()}),
    "a huge integer": lambda state: saved({**HEAD, "x": 10**100_000}),
    "a set": lambda state: saved({**HEAD, "x": {1, 2}}),
    "a sparse tensor": lambda state: saved({**HEAD, "x": torch.eye(3).to_sparse()}),
    "another program's": lambda state: saved({"state_dict": {"a": torch.zeros(3)}}),
    "a tensor alone": lambda state: saved(torch.zeros(3)),
    "text": lambda state: b"hello\n" * 100,
    "nothing": lambda state: b"",
    "a picture": lambda state: b"\x89PNG\r\n\x1a\n" + bytes(100),
}


@pytest.mark.parametrize("kind", CRAFTED)
def test_a_crafted_checkpoint_gives_one_line_and_runs_nothing(trained, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained, tmp_path / "run")
    state = torch.load(trained / "checkpoint.pt", weights_only=True)
    (tmp_path / "run" / "checkpoint.pt").write_bytes(CRAFTED[kind](state))
    for function in (
        lambda: load_weights(*pair(), tmp_path / "run" / "checkpoint.pt"),
        lambda: pv.load(tmp_path / "run", data=X),
        lambda: fit(pair(), 2, out=tmp_path / "run", resume=True),
    ):
        refused("is not a checkpoint of this library", function)
    assert not (tmp_path / "was_here").exists()


def test_every_truncation_of_a_checkpoint_is_refused(trained, tmp_path):
    whole = (trained / "checkpoint.pt").read_bytes()
    path = tmp_path / "checkpoint.pt"
    for size in range(0, len(whole), len(whole) // 40):
        path.write_bytes(whole[:size])
        refused("not a checkpoint of this library", checkpoint.load, path)


def test_a_checkpoint_of_another_version_names_the_versions(trained, tmp_path):
    state = torch.load(trained / "checkpoint.pt", weights_only=True)
    assert state["version"] == pv.__version__
    torch.save({**state, "format": "pyro_vae checkpoint 99", "version": "9.0"}, tmp_path / "c.pt")
    refused(r"reads 'pyro_vae checkpoint \d+': use the version that wrote it \(9.0\)",
            checkpoint.load, tmp_path / "c.pt")  # fmt: skip


def test_content_is_bounded_by_the_size_of_its_file():
    value = {"a": [torch.zeros(3, 2), 1, "x", None, True, 2.5], "b": {"c": (1, 2)}}
    check_content(value, 24)
    with pytest.raises(Unsafe, match="tensors larger than itself"):
        check_content(value, 23)


# ------------------------------------------------------------------- text


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "3", "null", "[" * 100_000, '{"data": 3}', '{"data": {}, "x": ' + "9" * 5000 + "}",
        '{"data": {"name": "data"}, "pair": {"model": {"class": "Model", "args": []}}}',
        '{"data": {}, "pair": {"model": {"class": "__builtins__", "args": []}, "guide": {}}}',
        '{"data": {}, "pair": {"model": {"class": "VAE", "args": [[6], {"class_path": "__class__", '
        '"init_args": {}}]}, "guide": {"class": "Guide", "args": []}}}',
    ],
)  # fmt: skip
def test_a_crafted_record_of_a_run_is_refused(trained, tmp_path, text):
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text(text)
    refused("config.json|does not say how its pair was built", pv.load, tmp_path / "run")


def test_text_that_is_not_utf_8_or_no_file_is_refused(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    path.write_bytes(b"\xff\xfe\x00")
    refused("is not text in UTF-8", pv.load, tmp_path / "run")
    path.unlink()
    path.mkdir()
    refused("config.json is not a file", pv.load, tmp_path / "run")
    path.rmdir()
    os.mkfifo(path)  # reading it would wait for ever
    refused("config.json is not a file", pv.load, tmp_path / "run")
    path.unlink()
    path.symlink_to("/dev/zero")
    refused("config.json is not a file", pv.load, tmp_path / "run")


@pytest.mark.parametrize("text", ["", "[1]\n", '{"epoch": "x"}\n', "{\n", '{"loss": 1.0}\n'])
def test_a_crafted_history_is_refused(trained, tmp_path, text):
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").write_text(text or "\xff")
    refused("metrics.jsonl is missing or damaged", pv.load, tmp_path / "run", data=X)


@pytest.mark.parametrize(
    "text",
    [
        "method: vae\nx: !!python/object/apply:os.system ['touch was_here']\n",
        "method: vae\na: &a [0]\n"
        + "".join(
            f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n"
            for a, b in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        "method: " + "[" * 5000,
        "method: [vae]\n",
        "3\n",
    ],
)
def test_a_crafted_configuration_is_refused(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").write_text(text)
    refused("my.yaml is not ", read_config, tmp_path / "my.yaml")
    assert not (tmp_path / "was_here").exists()


# ------------------------------------------------------------------- links


@pytest.mark.parametrize("name", [".lock", "config.json", "metrics.jsonl", "checkpoint.pt"])
def test_a_run_does_not_write_through_a_link(trained, tmp_path, name):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    for folder, resume in ((tmp_path / "new", False), (tmp_path / "old", True)):
        if resume:
            shutil.copytree(trained, folder)
        folder.mkdir(exist_ok=True)
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(precious)
        refused("is a symbolic link|already contains a run", fit, pair(), 2, out=folder,
                resume=resume)  # fmt: skip
        assert precious.read_text() == "mine"


def test_a_link_in_the_place_of_a_temporary_file_is_replaced(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.json", "metrics.jsonl", "checkpoint.pt"):
        (run / f"{name}.tmp").symlink_to(precious)
    assert len(fit(pair(), out=run).history) == 1
    assert precious.read_text() == "mine"
    assert json.loads((run / "config.json").read_text())["fit"]["epochs"] == 1


def test_a_linked_folder_and_linked_files_can_be_read(trained, tmp_path):
    """As caches of downloaded files have them."""
    (tmp_path / "linked").symlink_to(trained)
    assert len(pv.load(tmp_path / "linked", data=X).history) == 1
    (tmp_path / "files").mkdir()
    for path in trained.iterdir():
        (tmp_path / "files" / path.name).symlink_to(path)
    assert len(pv.load(tmp_path / "files", data=X).history) == 1
