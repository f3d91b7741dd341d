"""What is printed when engines stand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from export.engines.plans import Built

HEAD = ("graph", "seconds", "timing", "plan MB", "layers", "reformats")


def text(built: Built, bundle: Path) -> str:
    """For people: what was built and what comes next."""
    record = built.record
    lines = [f"Engines {built.folder}: TensorRT {record.tensorrt}, {record.gpu}, {record.precision}.", _table(built)]
    lines += [f"Note: {note}" for note in _notes(built)]
    command = f"python run_engine.py --bundle {bundle} --backend tensorrt --point_cloud scene.ply --output scene.txt"
    return "\n".join([*lines, f"Next: {command}"])


def _table(built: Built) -> str:
    """A row for each graph."""
    rows = [HEAD]
    for graph, plan in built.record.plans.items():
        timing = ("warm" if plan.warm else "cold") if graph in built.graphs else "kept"
        size = f"{plan.bytes / 1e6:,.1f}"
        rows.append((graph, f"{plan.seconds:.1f}", timing, size, str(plan.layers), str(plan.reformats)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            cell.ljust(width) if place in (0, 2) else cell.rjust(width) for place, (cell, width) in enumerate(row)
        )
        for row in (list(zip(cells, widths, strict=True)) for cells in rows)
    )
    return "\n".join(line.rstrip() for line in lines)


def _notes(built: Built) -> list[str]:
    """What the user should know: notes of the build, and that TensorRT gave warnings."""
    counts = {graph: len(built.record.plans[graph].warnings) for graph in built.graphs}
    if not (told := ", ".join(f"{count} for {graph}" for graph, count in counts.items() if count)):
        return built.notes
    return [*built.notes, f"TensorRT gave warnings ({told}); they are in engine.json and the logs beside it"]


def facts(built: Built) -> dict[str, Any]:
    """The same for machines."""
    record = built.record
    return {
        "folder": str(built.folder),
        "tensorrt": record.tensorrt,
        "gpu": record.gpu,
        "precision": record.precision,
        "graphs": {
            graph: {
                "built": graph in built.graphs,
                "seconds": plan.seconds,
                "warm": plan.warm,
                "bytes": plan.bytes,
                "layers": plan.layers,
                "reformats": plan.reformats,
            }
            for graph, plan in record.plans.items()
        },
        "notes": _notes(built),
    }
