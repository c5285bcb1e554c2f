"""Pictures of samples, trajectories, fields, densities, pairings and solvers, on matplotlib.

matplotlib is imported when something is drawn: ``pip install matplotlib``. Every function takes
``ax``, the axes to draw on, or makes a figure, and returns the axes. None shows or closes a figure
or changes a setting.
"""

from fastgen.plots.charts import quality
from fastgen.plots.curves import trajectories
from fastgen.plots.fields import likelihood, vector_field
from fastgen.plots.images import samples, sheet
from fastgen.plots.pairs import pairing
from fastgen.plots.sheets import TrainingSheets

__all__ = [
    "TrainingSheets",
    "likelihood",
    "pairing",
    "quality",
    "samples",
    "sheet",
    "trajectories",
    "vector_field",
]
