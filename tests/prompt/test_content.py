"""The user message, character for character."""

from __future__ import annotations

import hashlib

import pytest

from runtime.errors import SceneError
from runtime.prompt import CATEGORIES, DETECT_TYPES, user_content
from runtime.prompt.content import code_template


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_code_template() -> None:
    assert len(code_template()) == 562
    assert sha256(code_template()) == "2165992d6d17de4c73fd03af037701c9d0fb2f7896e4b64b22f8ec39288d6c21"


@pytest.mark.parametrize(
    ("detect_type", "length", "digest"),
    [
        ("all", 675, "8d9e67652410858b3b52a3180c27ee44dc91fa8b3de1144ffa1aa884b624b954"),
        ("arch", 668, "821e0ed1a52ab2368e76a081decbe1e5cd4d7e06b67a4c6af88a51b9a8c7b1c1"),
        ("object", 652, "6ad7bbc2d3be826354da7b53ecf6ade7c92fd646f6e9a4565ea3cbd7308bce1b"),
    ],
)
def test_user_content(detect_type: str, length: int, digest: str) -> None:
    content = user_content(detect_type, [])
    assert len(content) == length
    assert sha256(content) == digest


def task(content: str) -> str:
    return content.split("<|point_end|>")[1].split(" The reference code")[0]


def test_categories_take_the_place_of_boxes_in_the_given_order() -> None:
    assert task(user_content("object", ["nightstand", "bed"])) == "Detect nightstand, bed."
    assert task(user_content("all", ["bed"])) == "Detect walls, doors, windows, bed."
    assert user_content("arch", ["bed"]) == user_content("arch", [])


def test_the_categories() -> None:
    assert len(CATEGORIES) == len(set(CATEGORIES)) == 59
    assert (CATEGORIES[0], CATEGORIES[27], CATEGORIES[-1]) == (
        "sofa",
        "micro-wave_oven",
        "multifunctional_combination_bed",
    )
    assert DETECT_TYPES == ("all", "arch", "object")


def test_an_unknown_type_is_a_sentence() -> None:
    with pytest.raises(SceneError, match="The detect type is 'walls', but one of all, arch, object was expected"):
        user_content("walls", [])


@pytest.mark.parametrize("detect_type", DETECT_TYPES)
def test_an_unknown_category_is_a_sentence(detect_type: str) -> None:
    with pytest.raises(SceneError, match=r"'sofas' is none of the 59 categories.*Did you mean sofa"):
        user_content(detect_type, ["bed", "sofas"])
    with pytest.raises(SceneError, match=r"'zzz' is none of the 59 categories.*Choose from: sofa, chair, "):
        user_content(detect_type, ["zzz"])
