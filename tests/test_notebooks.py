"""The tutorials run, and what is committed is what they give."""

import base64
import importlib.util
import io
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("nbclient", reason="the tutorials are run by nbclient")
pytest.importorskip("ipykernel", reason="the tutorials need a kernel")
nbformat = pytest.importorskip("nbformat", reason="the tutorials are read by nbformat")

TUTORIALS = Path(__file__).resolve().parent.parent / "tutorials"
NOTEBOOKS = sorted(TUTORIALS.glob("*.ipynb"))
LONGEST = ("02", "05", "06", "07", "08")  # of 10 to 30 seconds each
ERROR = nbformat.v4.new_output("error", ename="ValueError", evalue="bad", traceback=[])


def load_script(name):
    """A module of tutorials/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"tutorials_{name}", TUTORIALS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tutorials, thumbnails = load_script("run"), load_script("thumbnails")


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


def run_or_slow(path):
    return pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * (path.stem[:2] in LONGEST))


def test_committed_outputs_are_clean_and_current(path):
    assert tutorials.problems(path) == []


# At reduced size the data sets of the package have few rows, and pictures few pixels.
REDUCED_SIZE = """
def first_rows(read, sizes):
    import dataclasses  # the names of the kernel are deleted before each notebook

    def read_first(split_seed):
        data = read(split_seed)
        few = {name: split[:sizes[name]] for name, split in data.splits().items()}
        return dataclasses.replace(data, **few)

    return read_first

from pyro_vae.data import sets
sets._digits = first_rows(sets._digits, {"train": 400, "valid": 100, "test": 120})
sets._arcs = first_rows(sets._arcs, {"train": 1000, "valid": 100, "test": 200})
%config InlineBackend.print_figure_kwargs = {"bbox_inches": None, "dpi": 20}
"""


@pytest.fixture(scope="session")
def kernel(tmp_path_factory):
    """One kernel for all the notebooks of this process: to start one takes seconds."""
    from nbclient.util import run_sync

    folder = tmp_path_factory.mktemp("kernel")
    cells = [nbformat.v4.new_code_cell(REDUCED_SIZE)]
    first = tutorials.client(nbformat.v4.new_notebook(cells=cells), folder)
    first.execute(env=tutorials.environment(), cleanup_kc=False)
    yield first.km
    run_sync(first.km.shutdown_kernel)(now=True)


def start_again(kernel, folder):
    """Leave nothing of the notebook before: no names, figures or parameters, and counts from 1."""
    source = f"""
import os, warnings
import matplotlib, matplotlib.pyplot, pyro, torch
matplotlib.pyplot.close("all")
matplotlib.rcdefaults()
pyro.clear_param_store()
torch.set_default_dtype(torch.float32)
os.chdir({str(folder)!r})
get_ipython().reset()
get_ipython().execution_count = 0
"""
    cells = [nbformat.v4.new_code_cell(source)]
    tutorials.client(nbformat.v4.new_notebook(cells=cells), folder, kernel).execute()


@pytest.mark.parametrize("path", [run_or_slow(path) for path in NOTEBOOKS])
def test_runs_from_top_to_bottom_at_reduced_size(path, kernel, tmp_path):
    start_again(kernel, tmp_path)
    # an error in a cell raises
    executed = tutorials.execute(path, tmp_path, {"QUICK": True}, kernel)
    cells = tutorials.code_cells(executed)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert [o for cell in cells for o in cell.outputs if o.get("name") == "stderr"] == []
    committed = tutorials.code_cells(nbformat.read(path, as_version=4))
    assert [bool(c.outputs) for c in cells] == [bool(c.outputs) for c in committed]


def test_executed_twice_a_notebook_is_the_same_file(tmp_path):
    path, texts = tmp_path / "small.ipynb", []
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("print(2)")]), path)
    for _ in range(2):
        nbformat.write(tutorials.tidy(tutorials.execute(path, tmp_path)), path)
        assert tutorials.problems(path) == []
        texts.append(path.read_text())
    assert texts[0] == texts[1]


def test_constants_are_replaced_in_the_constants_cell_alone():
    source = 'QUICK = False  # short\nDATA, DEVICE = "digits", "cpu"\nEPOCHS = 2 if QUICK else 100'
    cells = [nbformat.v4.new_code_cell(text) for text in ("DATA = 3", source)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    tutorials.set_constants(notebook, {"QUICK": True, "DEVICE": "cuda"})
    expected = (
        "QUICK = True  # short\nDATA, DEVICE = \"digits\", 'cuda'\nEPOCHS = 2 if QUICK else 100"
    )
    assert [cell.source for cell in notebook.cells] == ["DATA = 3", expected]
    with pytest.raises(SystemExit, match="no constant 'EPOCH'"):
        tutorials.set_constants(notebook, {"EPOCH": 1})


@pytest.mark.parametrize(
    ("text", "unsupported"),
    [
        ("It gains 3.5 nats, or 12%; $-181.33$ is the floor.", []),
        ("It gains 3.46 nats in 100 epochs.", []),
        ("It gains 3.6 nats.", ["3.6 nats"]),
        ("13% of them, 90 nats", ["13 %", "90 nats"]),
        ("Kingma, 2013, arXiv 1312.6114; `lr=0.07`; 2 of 10 dimensions", []),
    ],
)
def test_a_number_in_the_text_that_no_cell_prints_is_found(text, unsupported):
    cell = nbformat.v4.new_code_cell("LR = 3e-3")
    cell.outputs = [nbformat.v4.new_output("stream", text="gain 3.461, 12.2%, -181.329 nats")]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text), cell])
    assert tutorials.unsupported_claims(notebook) == unsupported


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda c: c.update(source="print(3)"), "code has changed"),
        (lambda c: c.update(outputs=[], execution_count=None), "not executed once"),
        (lambda c: c.outputs[0].update(text="/home/me/x.png"), "shows a path"),
        (lambda c: c.outputs[0].update(text="<f at 0x7f8e12345678>"), "an address"),
        (lambda c: c.outputs[0].update(name="stderr"), "writes to stderr"),
        (lambda c: c.outputs.append(ERROR), "ends in ValueError"),
    ],
)
def test_a_stale_or_unclean_notebook_is_rejected(tmp_path, change, complaint):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("print(2)")])
    (cell,) = notebook.cells
    cell.execution_count = 1
    cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text="2\n")]
    tutorials.tidy(notebook)
    path = tmp_path / "small.ipynb"
    nbformat.write(notebook, path)
    assert tutorials.problems(path) == []
    change(cell)
    nbformat.write(notebook, path)
    assert any(complaint in line for line in tutorials.problems(path))


def test_every_notebook_has_a_row_and_a_small_thumbnail_in_the_map(path):
    number = path.stem[:2]
    text = (TUTORIALS / "README.md").read_text()
    assert f"]({path.name})" in text and f"(thumbnails/{number}.png)" in text
    thumbnail = TUTORIALS / "thumbnails" / f"{number}.png"
    assert thumbnail.exists(), "run python tutorials/thumbnails.py"
    assert thumbnail.stat().st_size <= thumbnails.MAX_BYTES


def picture_cell(color, **metadata):
    """A code cell whose output is a picture of one color."""
    file = io.BytesIO()
    Image.new("RGB", (400, 200), color).save(file, "PNG")
    data = {"image/png": base64.b64encode(file.getvalue()).decode()}
    cell = nbformat.v4.new_code_cell("", metadata=metadata)
    cell.outputs = [nbformat.v4.new_output("display_data", data=data)]
    return cell


def test_key_picture_is_the_tagged_one_else_the_last():
    plain = [picture_cell("red"), picture_cell("blue"), nbformat.v4.new_code_cell("")]
    notebook = nbformat.v4.new_notebook(cells=plain)
    assert thumbnails.key_picture(notebook).getpixel((0, 0)) == (0, 0, 255)
    tagged = [picture_cell("red", tags=["thumbnail"]), picture_cell("blue")]
    notebook = nbformat.v4.new_notebook(cells=tagged)
    assert thumbnails.key_picture(notebook).getpixel((0, 0)) == (255, 0, 0)
    assert thumbnails.key_picture(nbformat.v4.new_notebook()) is None


def test_a_thumbnail_keeps_its_proportions_and_is_small_even_of_noise():
    noise = Image.effect_noise((1200, 600), 100)
    file = thumbnails.thumbnail(noise)
    small = Image.open(io.BytesIO(file))
    assert len(file) <= thumbnails.MAX_BYTES
    assert small.width == 2 * small.height
