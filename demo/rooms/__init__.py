"""Furnished rooms out of a seed, and scans of them with their ground truth.

    seed -> floor plan -> openings, furniture -> rays from a scanner -> Scan

What others may use stands here; the rest is private. numpy alone draws the numbers, from PCG64.
"""

from demo.rooms.order import canonical
from demo.rooms.scan import SPLITS, Scan, make_scan, transform

__all__ = ["SPLITS", "Scan", "canonical", "make_scan", "transform"]
