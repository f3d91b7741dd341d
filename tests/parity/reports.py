"""Results of a ladder made by hand, and a reader of the page that is made of them."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

from export.parity.limits import limits_of

VOID = {"meta", "br", "link", "img", "input", "hr", "base"}
DIFFERENT, WITHIN, EQUAL = "different", "equal within precision", "equal"


class Page(HTMLParser):
    """Elements, text and whatever is wrong with the nesting."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"{tag} has an attribute twice"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        assert self.open.pop() == tag == "path"  # HTML itself knows no such form

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += " ".join(data.split()) + " " if data.strip() else ""

    def all(self, tag: str, style: str | None = None) -> list[dict[str, str | None]]:
        found = [attributes for name, attributes in self.elements if name == tag]
        return [one for one in found if style is None or style in (one.get("class") or "").split()]


def difference(quantity: str, error: float, limit: float, **place: int) -> dict[str, Any]:
    name = f"{quantity} of layer {place['layer']}" if "layer" in place else quantity
    where = {"layer": None, "step": None} | place
    shown = f"{quantity} {place['step']}" if "step" in place else name
    return {
        "quantity": quantity, **where, "place": shown, "error": error, "largest": 2 * error, "cosine": 1 - error,
        "limit": limit, "within": error <= limit,
    }  # fmt: skip


def comparison(
    rung: str, against: str, precision: str = "fp32", layers: int = 2, steps: int = 3, **overrides: Any
) -> dict[str, Any]:
    limits = limits_of({"precision": precision})
    scale = limits.rows / 4
    found = [difference("table cos_1d", 0.0, limits.tables), difference("point tokens", scale, limits.point_tokens)]
    for quantity in ("prompt", "forced tokens"):
        for layer in range(layers):
            found.append(difference(f"keys of the {quantity}", scale * (1 + layer / layers), limits.rows, layer=layer))
            found.append(difference(f"values of the {quantity}", scale, limits.rows, layer=layer))
    found.append(difference("logits after the prompt", scale, limits.logits))
    found += [difference("logits of forced step", scale, limits.logits, step=step) for step in range(steps)]
    return {
        "rung": rung, "against": against, "verdict": EQUAL, "reason": "all 256 greedy tokens are equal.",
        "why": limits.why, "departure": None, "differences": found,
        "tokens": {"count": 256, "equal": 256, "margin": None, "error": None, "coin_toss": False},
    } | overrides  # fmt: skip


def rung(name: str, below: Any = None, reference: Any = None, **facts: Any) -> dict[str, Any]:
    known = {
        "rung": name, "model": "tiny", "precision": "fp32", "device": "x86_64", "python": "3.11.7", "scene": "a.ply",
        "voxels": 4321, "positions": 77, "scene_sha256": "5c" * 32, "digests": {"encoder": "ab" * 32},
    }  # fmt: skip
    return {"rung": name, "facts": known | facts, "below": below, "reference": reference}


def result(*rungs: dict[str, Any], scenes: tuple[str, ...] = ("a.ply",), verdict: str = EQUAL) -> dict[str, Any]:
    return {
        "verdict": verdict, "created_by": "spatiallm-export", "command": "python -m export.parity",
        "when": "2026-01-02", "scenes": [{"scene": scene, "rungs": list(rungs)} for scene in scenes],
    }  # fmt: skip


def ladder(layers: int = 2, steps: int = 3) -> tuple[dict[str, Any], ...]:
    size = {"layers": layers, "steps": steps}
    modules = comparison("modules", "reference", **size)
    fp16 = {"precision": "fp16", "verdict": WITHIN, **size}
    return (
        rung("reference", torch="2.13.0"),
        rung("modules", modules, modules, torch="2.13.0"),
        rung("engine", comparison("engine", "modules", **fp16), comparison("engine", "reference", **fp16),
             device="NVIDIA H200", precision="fp16"),
    )  # fmt: skip


def broken(error: float) -> tuple[dict[str, Any], ...]:
    """A ladder whose engine departs at the values of layer 1."""
    sentence = {"verdict": DIFFERENT, "reason": "first departs at values of the prompt of layer 1: off."}
    rungs = ladder()
    for name in ("below", "reference"):
        rungs[2][name] |= sentence
        for one in rungs[2][name]["differences"]:
            if one["layer"] == 1 and one["quantity"] == "values of the prompt":
                one |= {"error": error, "within": False}
    return rungs
