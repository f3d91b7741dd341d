"""What the user says to the model: markers for the cloud, the task, and the language of the answer."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from runtime.errors import SceneError

_TASKS = {
    "all": "Detect walls, doors, windows, boxes.",
    "arch": "Detect walls, doors, windows.",
    "object": "Detect boxes.",
}
DETECT_TYPES = tuple(_TASKS)

_CATEGORY_LIST = """
sofa chair dining_chair bar_chair stool bed pillow wardrobe nightstand tv_cabinet wine_cabinet bathroom_cabinet
shoe_cabinet entrance_cabinet decorative_cabinet washing_cabinet wall_cabinet sideboard cupboard coffee_table
dining_table side_table dressing_table desk integrated_stove gas_stove range_hood micro-wave_oven sink stove
refrigerator hand_sink shower shower_room toilet tub illumination chandelier floor-standing_lamp wall_decoration
painting curtain carpet plants potted_bonsai tv computer air_conditioner washing_machine clothes_rack mirror
bookcase cushion bar screen combination_sofa dining_table_combination leisure_table_and_chair_combination
multifunctional_combination_bed
"""
CATEGORIES: tuple[str, ...] = tuple(_CATEGORY_LIST.split())

_FIELDS = {
    "Wall": "ax ay az bx by bz height thickness",
    "Door": "wall_id position_x position_y position_z width height",
    "Window": "wall_id position_x position_y position_z width height",
    "Bbox": "class position_x position_y position_z angle_z scale_x scale_y scale_z",
}
_TEXT_FIELDS = ("wall_id", "class")  # of type str; every other one is an int


def code_template() -> str:
    """The declarations of the four entities, 562 characters: the model was trained with exactly this text."""
    return "\n\n".join(_declaration(name, fields.split()) for name, fields in _FIELDS.items())


def _declaration(name: str, fields: Sequence[str]) -> str:
    lines = [f"    {field}: {'str' if field in _TEXT_FIELDS else 'int'}" for field in fields]
    return "\n".join(["@dataclass", f"class {name}:", *lines])


def user_content(detect_type: str = "all", categories: Sequence[str] = ()) -> str:
    """The user message for a detect type (of DETECT_TYPES) and categories (of CATEGORIES, none means all of them).

    Categories take the place of the word "boxes" in the given order; with "arch", which asks for no boxes, they have
    no effect, as in the original. Raises SceneError for an unknown type or category.
    """
    if detect_type not in _TASKS:
        raise SceneError(f"The detect type is {detect_type!r}, but one of {', '.join(DETECT_TYPES)} was expected.")
    for category in categories:
        _check_category(category)
    task = _TASKS[detect_type]
    if categories:
        task = task.replace("boxes", ", ".join(categories))
    return f"<|point_start|><|point_pad|><|point_end|>{task} The reference code is as followed: {code_template()}"


def _check_category(category: str) -> None:
    if category in CATEGORIES:
        return
    near = difflib.get_close_matches(category, CATEGORIES)
    advice = f"Did you mean {' or '.join(near)}?" if near else f"Choose from: {', '.join(CATEGORIES)}."
    raise SceneError(f"{category!r} is none of the {len(CATEGORIES)} categories the model knows. {advice}")
