"""README and docs: their programs run, and what they name exists."""

import ast
import contextlib
import importlib
import importlib.util
import inspect
import io
import re
import shlex
from pathlib import Path

import pytest
from commands import COMMANDS, main, parsed, parsed_fit
from sklearn.datasets import load_wine

import pyro_vae as pv
from pyro_vae.report import samples

ROOT = Path(__file__).parent.parent
METHOD_PAGES = sorted((ROOT / "docs" / "methods").glob("*.md"))
REFERENCE = ROOT / "docs" / "reference" / "index.rst"
PROGRAMS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *METHOD_PAGES]
PAGES = [*PROGRAMS, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
COMMAND_TITLE = re.compile(r"`pyro-vae [^`]+`")
EPOCHS = 2


def page_id(path):
    return str(path.relative_to(ROOT))


def python_blocks(path):
    return [code for language, code in FENCE.findall(path.read_text()) if language == "python"]


def run_blocks(path, blocks):
    """Execute the blocks in one namespace; an error points to its line in the page."""
    text = path.read_text()
    namespace = {"__name__": "__page__"}
    for code in blocks:
        before = text[: text.index(code)].count("\n")
        exec(compile("\n" * before + code, str(path), "exec"), namespace)


def is_slow(code):
    return code.startswith("# slow")


with_programs = pytest.mark.parametrize(
    "path", [path for path in PROGRAMS if python_blocks(path)], ids=page_id
)


@pytest.fixture
def few_epochs(monkeypatch):
    """Cap epochs and samples, so that a page can print the settings that it recommends."""

    def cap(config):
        for key, value in config.items():
            name = key.rpartition(".")[2]
            limit = {"epochs": EPOCHS, "fits": 1, "vaes": 1, "restarts": 1}.get(name)
            if limit is not None and isinstance(value, int):
                config[key] = min(value, limit)

    fit, method_fit = pv.fit, pv.methods.Method.fit

    def short_fit(*args, **options):
        bound = inspect.signature(fit).bind(*args, **options)
        bound.arguments["epochs"] = min(bound.arguments.get("epochs", EPOCHS), EPOCHS)
        start = bound.arguments.get("initialize")
        if start is not None:
            settings = dict(vars(start))
            cap(settings)
            bound.arguments["initialize"] = type(start)(**settings)
        return fit(*bound.args, **bound.kwargs)

    def short_method_fit(self, *args, **options):
        cap(self.config)
        return method_fit(self, *args, **options)

    compare, evaluate = pv.compare, pv.Run.evaluate

    def short_evaluate(self, split=None, num_samples=10, **options):
        return evaluate(self, split, min(num_samples, 10), **options)

    log_likelihood = pv.evaluate.log_likelihood

    def short_log_likelihood(model, guide, x, num_samples=10, **options):
        return log_likelihood(model, guide, x, min(num_samples, 10), **options)

    fit_prior = pv.evaluate.fit_ex_post_prior

    def short_fit_prior(model, guide, x, **options):
        return fit_prior(model, guide, x, **(options | {"draws": 1, "epochs": EPOCHS}))

    def short_compare(model, guides, data, **options):
        guides = {
            name: (guide[0], {"epochs": EPOCHS}) if isinstance(guide, tuple) else guide
            for name, guide in guides.items()
        }
        gaps = {"max_steps": 2, "annealing": {"num_steps": 5}}
        short = {"seeds": 1, "epochs": EPOCHS, "num_gap_data": 1, "gap_options": gaps}
        return compare(model, guides, data, **(options | short))

    base = importlib.import_module("pyro_vae.estimators.base")
    monkeypatch.setattr(base.BaseVAE, "_epochs", lambda self, steps: EPOCHS)
    monkeypatch.setattr(pv, "fit", short_fit)
    monkeypatch.setattr(pv.methods.Method, "fit", short_method_fit)
    monkeypatch.setattr(pv.Run, "evaluate", short_evaluate)
    monkeypatch.setattr(pv.evaluate, "log_likelihood", short_log_likelihood)
    monkeypatch.setattr(pv.evaluate, "fit_ex_post_prior", short_fit_prior)
    monkeypatch.setattr(pv, "compare", short_compare)


@with_programs
@pytest.mark.filterwarnings("ignore::UserWarning")  # of pairs that two epochs have not trained
def test_programs_run_with_few_epochs(path, tmp_path, monkeypatch, few_epochs):
    monkeypatch.chdir(tmp_path)
    run_blocks(path, [code for code in python_blocks(path) if not is_slow(code)])


@pytest.mark.slow
@with_programs
def test_programs_run_as_printed(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_blocks(path, python_blocks(path))


def test_every_program_of_the_readme_can_be_copied_alone():
    for code in python_blocks(ROOT / "README.md"):
        names = {n.id for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Name)}
        assert "pv" not in names or "pyro_vae as pv" in code


def test_the_classifier_example_has_labels_of_every_class():
    blocks = python_blocks(ROOT / "docs" / "estimators.md")
    code = next(code for code in blocks if "few" in code).split("classifier =")[0]
    namespace = {"y": load_wine().target}
    exec(code, namespace)
    assert set(namespace["few"]) == {-1, 0, 1, 2}


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_dotted_names_exist(path):
    missing = []
    for name in sorted(set(re.findall(r"\bpv((?:\.\w+)+)", path.read_text()))):
        value = pv
        for part in name[1:].split("."):
            value = getattr(value, part, None)
        if value is None:
            missing.append(f"pv{name}")
    assert not missing


def test_functions_listed_for_evaluation_are_all_of_its_public_ones():
    text = (ROOT / "docs" / "diagnostics.md").read_text()
    table = text.split("`pv.evaluate` has:")[1].split("## Diagnostics")[0]
    assert set(re.findall(r"`(\w+)`", table)) | {"check_pair"} == set(pv.evaluate.__all__)


def test_diagnostics_described_are_all_of_its_public_ones():
    section = (ROOT / "docs" / "diagnostics.md").read_text().split("## Diagnostics")[1]
    undescribed = [
        name for name in pv.diagnostics.__all__ if name[0].islower() and name not in section
    ]
    assert not undescribed


def test_every_method_has_a_row_in_the_table_and_a_place_in_the_readme():
    table = (ROOT / "docs" / "methods.md").read_text()
    readme = (ROOT / "README.md").read_text()
    for name in pv.methods.METHODS:
        assert re.search(rf"^\|.*`{name}[` ]", table, re.M), f"docs/methods.md lacks {name}"
        assert f"`{name}`" in readme, f"README.md lacks {name}"


def test_every_method_has_a_page():
    names = {path.stem for path in METHOD_PAGES} - {"index"}
    assert names == set(pv.methods.METHODS)
    lists = re.findall(
        r"^```{method-list} (.+)$", METHOD_PAGES[0].with_stem("index").read_text(), re.M
    )
    assert sorted(" ".join(lists).split()) == sorted(pv.methods.METHODS)


def test_the_reference_lists_every_public_name_of_the_package_and_every_public_module():
    package = Path(pv.__file__).parent
    listed = set(re.findall(r"^   pyro_vae\.(\w+)$", REFERENCE.read_text(), re.M))
    sources = [*package.glob("*/__init__.py"), *package.glob("[a-z]*.py")]
    declaring = {p for p in sources if re.search(r"^__all__ = ", p.read_text(), re.M)}
    modules = {p.parent.name if p.stem == "__init__" else p.stem for p in declaring}
    assert listed == modules | set(pv.__all__)


def headings(path):
    """The anchors that GitHub gives to a page's headings."""
    text = FENCE.sub("", path.read_text())
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_relative_links_lead_to_files_and_headings(path):
    text = FENCE.sub("", path.read_text())
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if not target.exists() or (anchor and anchor not in headings(target)):
            broken.append(link)
    assert not broken


def shell_lines(text):
    """Shell commands of a page: in indented blocks and in code spans, comments removed."""
    text = FENCE.sub("", text)
    for line in re.findall(r"^ {4}(.+)$", text, re.M):
        yield from (part.strip() for part in line.split("  #")[0].split(" # ")[0].split("&&"))
    yield from re.findall(r"`([^`\n]+)`", text)


def table_commands(text):
    """The commands of tables: a column titled `pyro-vae fit` holds what follows these words."""
    header = None
    for line in text.splitlines():
        if not line.startswith("|"):
            header = None
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if header is None:
            header = cells
        for title, cell in zip(header, cells, strict=True):
            if cells is not header and COMMAND_TITLE.fullmatch(title):
                for span in re.findall(r"`([^`]+)`", cell):
                    is_whole = span.startswith("pyro-vae")
                    yield span if is_whole else f"{title.strip('`')} {span}"


def pyro_vae_commands(path):
    text = path.read_text()
    without_titles = re.sub(r"^\|.*\n(?=\|---)", "", text, flags=re.M)
    lines = [re.sub(r"^.*-m pyro_vae\b", "pyro-vae", line) for line in shell_lines(without_titles)]
    actual = [line.rstrip("\\'") for line in lines if re.match(r"pyro-vae (?!\W*$)", line)]
    return [*actual, *table_commands(text)]


def parse(line):
    """Parse a command line as the command does, without running it; raises what is wrong."""
    line, _, file = line.partition(" > ")
    argv = shlex.split(line)[1:]
    if len(argv) == 1 and not argv[0].startswith("-"):
        assert argv[0] in COMMANDS, "no such subcommand"
        return
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        if any(token.lstrip("-").endswith("help") for token in argv) or "--print-config" in argv:
            with contextlib.suppress(SystemExit):
                assert main(argv) == 0
        elif argv[0] == "fit":
            parsed_fit(argv[1:])
        else:
            _, options = parsed(argv)
            assert options.get("source", "prior") in samples.SOURCES, "no such source"
            guides = (options.get("guides") or "default").split(",")
            assert set(guides) <= set(pv.methods.GUIDES), "no such guide"
    if file:
        Path(file).write_text(printed.getvalue())


@pytest.mark.parametrize("path", [path for path in PAGES if pyro_vae_commands(path)], ids=page_id)
def test_commands_are_accepted(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs/gmvae-digits-0").mkdir(parents=True)  # to resume
    for name in ("table.csv", "cells.h5ad"):
        Path(name).touch()
    parse("pyro-vae fit gmvae --print-config > runs/gmvae-digits-0/config.yaml")
    for line in pyro_vae_commands(path):
        try:
            parse(line)
        except (pv.UserError, AssertionError) as e:
            pytest.fail(f"{line}: {e}")


def test_a_command_with_an_unknown_option_fails_this_check():
    with pytest.raises(pv.UserError):
        parse("pyro-vae fit vae --hiden 3")


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_modules_and_source_files_that_are_named_exist(path):
    text = path.read_text()
    for module in sorted(set(re.findall(r"python -m (benchmarks(?:\.\w+)+)", text))):
        assert importlib.util.find_spec(module), module
    for file in sorted(set(re.findall(r"[`( ](\w+(?:/\w+)+\.(?:py|md|ipynb))\b", text))):
        places = (path.parent / file, ROOT / file, ROOT / "pyro_vae" / file)
        assert any(place.exists() for place in places), file


def test_citation_and_metadata_have_the_version_of_the_package():
    citation = (ROOT / "CITATION.cff").read_text()
    metadata = (ROOT / "setup.cfg").read_text()
    assert re.search(r"^version: (.+)$", citation, re.M)[1] == pv.__version__
    declared = re.search(r"^version = (.+)$", metadata, re.M)[1]
    assert declared in (pv.__version__, "attr: pyro_vae.__version__")


def test_readme_is_one_page():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 160


def top_level_imports(file, package):
    """Parts of the package that a file imports when it is itself imported."""
    here = file.relative_to(package).parts[:-1]
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - node.level + 1]
            module = (*base, *(node.module or "").split(".")) if node.module else base
            yield from [module[0]] if module else [alias.name for alias in node.names]


def test_imports_follow_the_order_in_contributing():
    package = Path(pv.__file__).parent
    section = (ROOT / "CONTRIBUTING.md").read_text().split("## Architecture")[1]
    block = re.search(r"(?:^ {4}.+\n)+", section, re.M)[0]
    order = [
        part.rstrip("/").removesuffix(".py")
        for line in block.splitlines()
        for part in re.findall(r"[a-z]+(?:/|\.py)", line[:28])
    ]
    parts = {p.stem for p in package.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert {part for part in parts if not part.startswith("_")} == set(order)
    upwards = []
    for file in package.rglob("*.py"):
        part = Path(file.relative_to(package).parts[0]).stem
        for other in top_level_imports(file, package):
            if part in order and other in order and order.index(other) > order.index(part):
                upwards.append(f"{file.relative_to(package)} imports {other}")
    assert not upwards
