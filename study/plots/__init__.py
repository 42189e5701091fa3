"""Pictures for the tracker: sheets of images, curves, scatter plots, heat maps, in one style.

Figures are made without pyplot: no global state, nothing to close.
"""

from matplotlib.figure import Figure

from study.plots.charts import Series, apart, bars, confusion, curves, heat_maps, scatter, side_by_side
from study.plots.sheets import SHEET_ZOOM, labelled_grid
from study.plots.style import Chart, facts
from tracking.grids import GAP, ZOOM, grid

__all__ = [
    "GAP",
    "SHEET_ZOOM",
    "ZOOM",
    "Chart",
    "Figure",
    "Series",
    "apart",
    "bars",
    "confusion",
    "curves",
    "facts",
    "grid",
    "heat_maps",
    "labelled_grid",
    "scatter",
    "side_by_side",
]
