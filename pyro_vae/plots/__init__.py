"""Plots: each function draws on the matplotlib Axes that it takes, and returns these Axes.

Colors can be told apart with the common forms of color blindness, and are legible on light and on
dark backgrounds.
"""

from .charts import bars, curves, gaps, unit_activity, unit_kl
from .components import component_order, confusion, contingency, occupancy
from .graphs import graph
from .grids import (
    column_ticks,
    columns_of_images,
    images,
    interpolations,
    outline,
    pairs_of_images,
    traversal,
    white_of,
)
from .latents import Projection, ellipses, project, scatter
from .posteriors import posterior, ranks
from .style import BLUE as BLUE
from .style import CATEGORIES as CATEGORIES
from .style import GREY as GREY
from .style import INK as INK
from .style import ORANGE as ORANGE
from .style import RASTER as RASTER
from .style import as_written, axes, is_image, palette, panels
from .tables import column

__all__ = [
    "Projection",
    "as_written",
    "axes",
    "bars",
    "column",
    "column_ticks",
    "columns_of_images",
    "component_order",
    "confusion",
    "contingency",
    "curves",
    "ellipses",
    "gaps",
    "graph",
    "images",
    "interpolations",
    "is_image",
    "occupancy",
    "outline",
    "pairs_of_images",
    "palette",
    "panels",
    "posterior",
    "project",
    "ranks",
    "scatter",
    "traversal",
    "unit_activity",
    "unit_kl",
    "white_of",
]
