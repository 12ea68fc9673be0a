"""Test the oldest and the newest admitted versions of every dependency, each in a fresh environment.

    python tools/versions.py                  # both
    python tools/versions.py oldest           # every dependency at the lower bound of setup.cfg
    python tools/versions.py newest -- tests/test_ais.py

Each environment is built in `--folder`, gets this package and its test tools, and runs the tests
named after `--` (default: TESTS, some minutes). The exit status is 1 if any of them fails.
"""

import argparse
import configparser
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ("pytest", "pytest-xdist", "hypothesis", "mpmath")  # at any version
#: training in every way (plain, recorded, Inductor), the command line, flows, reports
TESTS = (
    "tests/test_exact_linear_gaussian.py",
    "tests/test_exact_mixture.py",
    "tests/test_pyro_compatibility.py",
    "tests/test_recorder.py",
    "tests/test_recorded.py",
    "tests/test_compiled.py",
    "tests/test_priors.py",
    "tests/test_cli.py",
)


def declared():
    """The lines of setup.cfg's `install_requires`."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return list(filter(None, config["options"]["install_requires"].splitlines()))


def requirements():
    """`{package: lower bound}` of setup.cfg's `install_requires`."""
    line = re.compile(r"([\w.\[\]-]+)\s*>=\s*([\w.]+)(?:,.*)?")
    return dict(line.fullmatch(requirement.strip()).groups() for requirement in declared())


def build(kind, folder):
    """Build the environment `oldest` or `newest`; returns its Python."""
    place = folder / kind
    venv.create(place, with_pip=True, clear=True)
    python = place / "bin" / "python"
    packages = [f"{name}=={bound}" for name, bound in requirements().items()]
    if kind == "newest":
        packages = declared()
    pip = [python, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--upgrade", *packages, *TOOLS], check=True)
    subprocess.run([*pip, "--no-deps", "--editable", ROOT], check=True)
    return python


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("kinds", nargs="*", default=["oldest", "newest"])
    parser.add_argument("--folder", type=Path, default=ROOT / ".versions", help="environments")
    words = sys.argv[1:] if argv is None else list(argv)
    tests = words[words.index("--") + 1 :] if "--" in words else TESTS
    options = parser.parse_args(words[: words.index("--")] if "--" in words else words)
    failed = []
    for kind in options.kinds:
        if kind not in ("oldest", "newest"):
            parser.error(f"{kind!r} is neither oldest nor newest")
        python = build(kind, options.folder)
        names = [re.sub(r"\[.*", "", name) for name in requirements()]
        shown = subprocess.run(
            [python, "-m", "pip", "show", *names], capture_output=True, text=True
        )
        found = re.findall(r"^Name: (.+)\nVersion: (.+)$", shown.stdout, re.M)
        print(f"{kind}: " + ", ".join(" ".join(pair) for pair in found), flush=True)
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        if subprocess.run(
            [python, "-m", "pytest", "-q", *tests], cwd=ROOT, env=environment
        ).returncode:
            failed.append(kind)
    print("failed: " + ", ".join(failed) if failed else "all passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
