"""Validation curves of several runs over their table, as a matplotlib Figure; readable in colour and grey."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from runtime.pictures import style
from runtime.pictures.figure import Picture

WIDTH, AXES, LINE, TITLE, EDGE = 8.6, 3.6, 0.165, 0.55, 0.75  # inches
LOOKS = (  # colour, dashes, marker: each tells runs apart by itself, and colours are dark to light
    ("#14213d", "-", "o"),
    ("#a63d13", (0, (6, 2)), "s"),
    ("#2a86c0", (0, (1, 1.2)), "^"),
    ("#7fa650", (0, (5, 1.5, 1, 1.5)), "D"),
)


def draw_curves(runs: Mapping[str, Mapping[str, Any]], table: str) -> Any:
    """Cross entropy of an answer's token over the validation rooms, by step; below it the table as it is."""
    with matplotlib.rc_context(style.SETTINGS):
        height = TITLE + AXES + EDGE + LINE * len(table.splitlines()) + 0.3
        figure = Picture(figsize=(WIDTH, height), dpi=100, facecolor="white")
        figure.text(EDGE / WIDTH, 1 - 0.2 / height, "Cross entropy on the validation rooms",
                    fontsize=style.PANEL, color=style.INK, weight="bold", va="top")  # fmt: skip
        bottom = height - TITLE - AXES
        ax = figure.add_axes((EDGE / WIDTH, bottom / height, 1 - (EDGE + 0.3) / WIDTH, AXES / height))
        _axes(ax)
        for number, (name, run) in enumerate(runs.items()):
            _curve(ax, name, run, number)
        ax.legend(frameon=False, fontsize=style.SUBTITLE, handlelength=4, labelcolor=style.INK)
        figure.text(EDGE / WIDTH, (bottom - EDGE) / height, table, family="DejaVu Sans Mono", fontsize=style.SMALL,
                    color=style.INK, va="top", linespacing=1.35)  # fmt: skip
    return figure


def points_of(run: Mapping[str, Any]) -> tuple[list[int], list[float]]:
    """Steps and losses, the last of them from the end of the run."""
    steps = [line["step"] for line in run["curves"]]
    losses = [line["validation"]["cross_entropy"] for line in run["curves"]]
    if not steps or steps[-1] < run["steps"]:
        steps, losses = [*steps, run["steps"]], [*losses, run["validation"]]
    return steps, losses


def _curve(ax: Any, name: str, run: Mapping[str, Any], number: int) -> None:
    color, dashes, marker = LOOKS[number % len(LOOKS)]
    steps, losses = points_of(run)
    hollow = "white" if number >= len(LOOKS) else color  # a second round
    ax.plot(steps, losses, color=color, linestyle=dashes, linewidth=1.6, marker=marker, markersize=5,
            markevery=max(1, len(steps) // 10), markerfacecolor=hollow, label=f"{name}: {losses[-1]:.3f}")  # fmt: skip


def _axes(ax: Any) -> None:
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.set_xlabel("training steps", fontsize=style.SUBTITLE, color=style.QUIET)
    ax.set_ylabel("cross entropy of a token", fontsize=style.SUBTITLE, color=style.QUIET)
    ax.tick_params(labelsize=style.SMALL, colors=style.QUIET)
    ax.grid(True, color=style.FAINT, linewidth=0.4)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
