"""Write the key picture of each tutorial, made small, to thumbnails/NN.png.

    python tutorials/thumbnails.py                    # of all tutorials
    python tutorials/thumbnails.py 02_amortization

The key picture is that of the cell with the tag `thumbnail`. Default: the last picture.
"""

import base64
import io
import sys
from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve().parent
MAX_BYTES = 30_000
WIDTHS = (360, 300, 240, 180, 120)  # pixels, the widest that is small enough


def key_picture(notebook):
    """The key picture of a notebook as an image; None if it has no pictures."""
    pictures = [
        (cell, output.data["image/png"])
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if "image/png" in output.get("data", {})
    ]
    tagged = [png for cell, png in pictures if "thumbnail" in cell.metadata.get("tags", ())]
    chosen = tagged or [png for _, png in pictures]
    return Image.open(io.BytesIO(base64.b64decode(chosen[-1]))) if chosen else None


def thumbnail(picture):
    """The bytes of a PNG file of at most `MAX_BYTES`."""
    picture = Image.alpha_composite(
        Image.new("RGBA", picture.size, "white"), picture.convert("RGBA")
    )
    for width in WIDTHS:
        size = width, max(1, round(picture.height * width / picture.width))
        small = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
        # of a palette's colors none may be lost because few pixels have it
        for image in (small, small.quantize(128, Image.Quantize.MAXCOVERAGE)):
            file = io.BytesIO()
            image.save(file, "PNG", optimize=True)
            if file.tell() <= MAX_BYTES:
                return file.getvalue()
    raise ValueError(f"a picture of {picture.size} has no thumbnail of {MAX_BYTES:,} bytes")


def main(names):
    import nbformat

    (HERE / "thumbnails").mkdir(exist_ok=True)
    for path in sorted(HERE.glob("*.ipynb")):
        if names and path.stem not in names:
            continue
        picture = key_picture(nbformat.read(path, as_version=4))
        if picture is not None:
            (HERE / "thumbnails" / f"{path.stem[:2]}.png").write_bytes(thumbnail(picture))


if __name__ == "__main__":
    main([Path(name).stem for name in sys.argv[1:]])
