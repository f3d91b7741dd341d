"""The report of the ladder: whole, escaped, readable without a network, and true to the result."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest

from export.parity.report import render, write_report
from runtime.errors import SceneError
from tests.parity.reports import DIFFERENT, EQUAL, WITHIN, Page, broken, comparison, ladder, result, rung

MAY_LOAD = {"src", "srcset", "poster", "data", "action", "background", "formaction", "xlink:href"}
HOSTILE = "</title></style><script>alert(1)</script>\"'><img src=http://example.org onerror=x>&{{ 7*7 }}"


def test_the_verdict_comes_first_in_words() -> None:
    for verdict, sign in ((EQUAL, "="), (WITHIN, "≈"), (DIFFERENT, "≠")):
        text = render(result(*ladder(), verdict=verdict))
        page = Page(text)
        assert f"<title>Parity: {verdict}</title>" in text
        assert page.text.index(f"{sign} Parity: {verdict}") < page.text.index("Written by")


def test_where_it_departs_stands_beside_the_verdict_and_leads_there() -> None:
    text = render(result(*broken(0.5), verdict=DIFFERENT))
    header = text[text.index("<header") : text.index("</header>")]
    assert "<strong>engine</strong> against modules: first departs at values of the prompt of layer 1" in header
    assert header.count("<li>") == 1  # against the rung below; that with the reference would say it again
    assert '<a href="#scene-1">a.ply</a>' in header
    assert [one for one in Page(text).all("h2") if one.get("id") == "scene-1"]


def test_a_rung_that_equals_the_reference_is_no_departure() -> None:
    rungs = ladder()
    rungs[2]["below"] |= {"verdict": DIFFERENT}
    assert "<li>" not in render(result(*rungs, verdict=WITHIN)).split("</header>")[0]


def test_the_worst_error_of_each_kind_stands_over_its_limit() -> None:
    page = Page(render(result(*broken(0.5), verdict=DIFFERENT)))
    assert "✗ outside: 0.5 ≤ 0.004" in page.text
    assert [cell["title"] for cell in page.all("td", "outside")] == ["values of the prompt of layer 1"] * 2


@pytest.mark.parametrize(("error", "shown"), [(math.nan, "NaN"), (None, "NaN"), (math.inf, "infinite")])
def test_errors_that_are_no_numbers_are_the_worst_and_are_shown(error: float, shown: str) -> None:
    text = render(result(*broken(error), verdict=DIFFERENT))
    assert f"✗ outside: {shown} ≤ 0.004" in Page(text).text
    assert f"engine, layer 1: {shown}, limit 0.004" in text
    assert not re.search(r'd="[^"]*(nan|inf)', text)


@pytest.mark.parametrize("first", [True, False])
def test_a_finite_error_does_not_hide_one_that_is_not(first: bool) -> None:
    rungs = broken(math.nan if first else 7.0)
    for name in ("below", "reference"):
        for one in rungs[2][name]["differences"]:
            if one["layer"] == 1 and one["quantity"] == "values of the forced tokens":
                one |= {"error": 7.0 if first else math.nan, "within": False}
    text = render(result(*rungs, verdict=DIFFERENT))
    assert "✗ outside: NaN ≤ 0.004" in Page(text).text
    assert "<title>engine, layer 1: NaN, limit 0.004</title>" in text


def test_results_as_json_writes_them_give_the_same_page() -> None:
    found = result(*broken(math.nan), verdict=DIFFERENT)
    assert render(json.loads(json.dumps(found))) == render(found)


@pytest.mark.parametrize("layers", [1, 32])
@pytest.mark.parametrize("steps", [0, 1, 64])
def test_any_number_of_layers_and_steps(layers: int, steps: int) -> None:
    text = render(result(*ladder(layers, steps)))
    page = Page(text)
    assert len(page.all("figure")) == 3
    # two rungs; keys and values by layer, logits after the prompt and at every step; and one mark each in the legend
    assert len(page.all("path", "mark")) == 2 * (2 * layers + 1 + steps) + 2
    assert f"All {3 + 4 * layers + steps} quantities: engine against reference" in text


def test_a_reference_alone_is_no_failure() -> None:
    page = Page(render(result(rung("reference"))))
    assert "what the others are compared with" in page.text
    assert not page.all("figure")


def test_several_scenes_have_an_overview() -> None:
    rungs = broken(0.5)
    found = result(*rungs, scenes=("a.ply", "b.ply"), verdict=DIFFERENT)
    found["scenes"][1]["rungs"] = rungs[:2]
    text = render(found)
    rows = re.findall(r"<tr><th scope=\"row\"><a href=.*?</tr>", text, re.DOTALL)
    assert [re.findall(r"</span> (.*?)</span>", row) for row in rows] == [[EQUAL, DIFFERENT], [EQUAL]]
    assert "Overview" not in render(result(*rungs, verdict=DIFFERENT))


def test_tokens_margins_and_coin_tosses() -> None:
    tokens = {"count": 256, "equal": 17, "margin": 0.0123, "error": 0.5, "coin_toss": True}
    one = comparison("engine", "reference", "fp16", verdict=WITHIN, tokens=tokens)
    page = Page(render(result(rung("reference"), rung("engine", one, one), verdict=WITHIN)))
    assert "17 of 256 margin 0.012, error 0.5: a coin toss" in page.text


def test_tolerances_facts_and_digests() -> None:
    page = Page(render(result(*ladder())))
    assert (
        "11 bits of mantissa in weights, hidden states and cache engine tables 2e-6 , point tokens 0.002" in page.text
    )
    assert "float32 sums in another order modules tables 2e-6" in page.text
    assert "device x86_64 x86_64 NVIDIA H200" in page.text
    assert "torch 2.13.0 2.13.0 –" in page.text
    assert f"encoder reference, modules, engine {'ab' * 32}" in page.text
    assert f"voxels 4,321 · positions of the prompt 77 · SHA-256 {'5c' * 32}" in page.text
    assert page.all("td", "same")[0]["colspan"] == "3"  # the model


def test_all_text_is_escaped() -> None:
    one = comparison(HOSTILE, HOSTILE, verdict=DIFFERENT, reason=HOSTILE, why=HOSTILE, departure=HOSTILE)
    one["differences"][0] |= {"quantity": HOSTILE, "place": HOSTILE, "within": False}
    rungs = (rung(HOSTILE), rung(HOSTILE + "2", one, one, **{HOSTILE: HOSTILE}, digests={HOSTILE: HOSTILE}))
    found = result(*rungs, scenes=(HOSTILE, "b"), verdict=DIFFERENT)
    page = Page(render(found | {"command": HOSTILE, "created_by": HOSTILE, "when": HOSTILE}))
    assert not page.all("script") and not page.all("img")
    assert "49" not in page.text
    # origin 3, departures 2 * 4, legends, tables, facts: at least once for each that was given
    assert page.text.count("alert(1)") > 30


def test_nothing_is_loaded_from_anywhere() -> None:
    text = render(result(*broken(0.5), scenes=("a.ply", "b.ply"), verdict=DIFFERENT))
    page = Page(text)
    for tag, attributes in page.elements:
        assert tag not in {"script", "link", "img", "iframe", "object", "embed", "base", "image", "use"}
        assert not MAY_LOAD & attributes.keys()
        assert (attributes.get("href") or "#").startswith("#")
    assert not re.search(r"https?:|url\(|@import|//[a-z]", text)
    policy = next(meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_people_who_do_not_see_it_can_read_it() -> None:
    text = render(result(*broken(0.5), scenes=("a.ply", "b.ply"), verdict=DIFFERENT))
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>") and page.all("html")[0]["lang"] == "en"
    assert len(page.all("table")) == len(page.all("caption"))
    assert all(header.get("scope") for header in page.all("th"))
    assert all(region.get("aria-label") and region["tabindex"] == "0" for region in page.all("div", "scroll"))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for drawing in page.all("svg"):
        named = (drawing.get("aria-labelledby") or "").split()
        assert drawing.get("aria-hidden") == "true" or (len(named) == 2 and set(named) <= set(ids))
    assert "Largest: engine, layer 1: 0.5, limit 0.004." in text  # in the description of the values


def test_the_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "parity.html"
    write_report(result(*ladder()), path)
    before = path.read_bytes()
    assert before.decode("utf-8") == render(result(*ladder()))

    def fail(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(SceneError, match=r"parity\.html: cannot be written \(No space left on device\)"):
        write_report(result(*ladder(), verdict=WITHIN), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_missing_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match="Name a report in a folder that exists"):
        write_report(result(*ladder()), tmp_path / "no" / "parity.html")


def test_names_that_are_no_unicode_are_written_all_the_same(tmp_path: Path) -> None:
    write_report(result(*ladder(), scenes=("r\udcffoom.ply",)), tmp_path / "parity.html")
    assert b"r\\udcffoom.ply" in (tmp_path / "parity.html").read_bytes()
