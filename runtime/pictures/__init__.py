"""Layouts to look at: pictures by matplotlib, and recordings for the Rerun viewer.

Either library is imported when it is asked for, and nowhere else in the runtime.
"""

from runtime.pictures.libraries import need, scores_are_possible
from runtime.pictures.plot import PLOT_ENDINGS, check_ending, plot_layout, write_plot
from runtime.pictures.viewer import RERUN_ENDING, check_rerun_ending, write_rerun

__all__ = [
    "PLOT_ENDINGS",
    "RERUN_ENDING",
    "check_ending",
    "check_rerun_ending",
    "need",
    "plot_layout",
    "scores_are_possible",
    "write_plot",
    "write_rerun",
]
