"""From the model's text to a layout in metres, and to files."""

from runtime.layout.boxes import OrientedBox, to_boxes
from runtime.layout.entities import Bbox, Door, Issue, Layout, Wall, Window, to_text
from runtime.layout.parse import parse_layout
from runtime.layout.read import read_layout
from runtime.layout.units import discretize, translate, undiscretize
from runtime.layout.write import ENDINGS, to_json, write_layout

__all__ = [
    "ENDINGS",
    "Bbox",
    "Door",
    "Issue",
    "Layout",
    "OrientedBox",
    "Wall",
    "Window",
    "discretize",
    "parse_layout",
    "read_layout",
    "to_boxes",
    "to_json",
    "to_text",
    "translate",
    "undiscretize",
    "write_layout",
]
