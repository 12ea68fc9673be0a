"""The numbers that README prints of its comparison of guides, from the program that README shows.

python -m benchmarks.quality.readme_guides --out benchmarks/results/readme_guides.json
"""

import re
from pathlib import Path

from benchmarks import harness

README = Path(__file__).resolve().parents[2] / "README.md"


def program() -> str:
    """README's Python block that compares guides."""
    blocks = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.M | re.S)
    return next(block for block in blocks if "pv.compare(" in block)


def main(argv: list[str] | None = None) -> None:
    options = harness.parse(harness.parser(__doc__, cpu_only=True), argv)
    code = program()
    if options.quick:
        code = code.replace('"epochs": 100', '"epochs": 1').replace(
            "num_gap_data=20", "num_gap_data=0"
        )
    names: dict = {}
    exec("import pyro_vae as pv\n" + code, names)
    result = names["result"]
    differences = [
        {"guide": row["guide"], "seeds": row["seeds"], "difference of ELBO": None}
        if row["standard_error"] is None
        else {
            "guide": row["guide"],
            "seeds": row["seeds"],
            "difference of ELBO": {
                "mean": row["difference"],
                "standard_error": row["standard_error"],
            },
        }
        for row in result.differences("elbo")
    ]
    if options.out:
        harness.write(
            options.out,
            harness.command("benchmarks.quality.readme_guides", argv),
            rows=result.summary(),
            differences=differences,
        )


if __name__ == "__main__":
    main()
