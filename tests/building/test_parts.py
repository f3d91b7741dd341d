"""The parts of a build that need no TensorRT: timing cache, inspector's report, phases, messages."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from export.engines.children import last_errors
from export.engines.inspection import LayerCount, count_layers
from export.engines.messages import Messages, messages, read_messages
from export.engines.phases import Phases
from export.engines.timing import LARGEST, TimingFile, default_file
from runtime.errors import EngineError


def test_a_timing_cache_and_what_it_knows(tmp_path: Path) -> None:
    file = TimingFile(tmp_path / "deep" / "a.cache")
    assert file.read() == b""
    assert not file.knows(b"", "one")
    file.update("one", lambda present: present + b"1")
    file.update("two", lambda present: present + b"2")
    assert file.read() == b"12"
    assert [file.knows(b"12", graph) for graph in ("one", "two", "three")] == [True, True, False]
    assert not file.knows(b"1", "one"), "another cache than the list is about"
    file.path.write_bytes(b"of someone else")
    assert not file.knows(file.read(), "one")
    file.update("three", lambda present: present + b"3")
    assert [file.knows(file.read(), graph) for graph in ("one", "three")] == [False, True]
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"graphs": 3}', '{"sha256": 1, "graphs": ["one"]}', "[" * 100_000])
def test_a_list_that_is_none_knows_nothing(tmp_path: Path, text: str) -> None:
    file = TimingFile(tmp_path / "a.cache")
    file.update("one", lambda _: b"1")
    (tmp_path / "a.cache.graphs.json").write_text(text)
    assert not file.knows(b"1", "one")
    file.update("one", lambda _: b"1")
    assert file.knows(b"1", "one")


def _add(path: Path, letter: bytes) -> None:
    for index in range(40):
        TimingFile(path).update(f"{letter!r}{index}", lambda present: present + letter)


def test_two_processes_lose_nothing(tmp_path: Path) -> None:
    path, context = tmp_path / "a.cache", multiprocessing.get_context("spawn")
    processes = [context.Process(target=_add, args=(path, letter)) for letter in (b"x", b"y")]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert sorted(path.read_bytes()) == sorted(b"x" * 40 + b"y" * 40)
    assert len(json.loads((tmp_path / "a.cache.graphs.json").read_text())["graphs"]) == 80


def test_what_is_no_timing_cache(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"is no timing cache\. Choose another --timing_cache"):
        TimingFile(tmp_path).read()
    large = tmp_path / "large.cache"
    with large.open("wb") as file:
        file.truncate(LARGEST + 1)
    with pytest.raises(EngineError, match=r"large.cache: is no timing cache"):
        TimingFile(large).read()


def test_the_default_file_names_gpu_and_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    want = tmp_path / "spatiallm-export" / "timing-nvidia-h200-trt8.6.0.cache"
    assert default_file("NVIDIA H200", "8.6.0") == want
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_file("a", "1").parent == tmp_path / ".cache" / "spatiallm-export"


@pytest.mark.parametrize(
    ("layers", "count"),
    [
        ([], LayerCount(0, 0)),
        (["a", "Reformatting CopyNode for Input Tensor 0 to b"], LayerCount(2, 1)),
        (
            [
                {"Name": "Reformatting CopyNode for Output Tensor 0 to b", "LayerType": "Reformat"},
                {"Name": "{ForeignNode[a...b]}", "LayerType": "Myelin", "Inputs": []},
                {"Name": "shuffle", "LayerType": "NoOp"},
                {"Name": "__mye1_reformat", "LayerType": "Reformat", "Metadata": ""},
            ],
            LayerCount(4, 2),
        ),
        ([{"LayerType": "Myelin"}, None, 3], LayerCount(3, 0)),
    ],
    ids=["none", "names", "objects", "strange"],
)
@pytest.mark.parametrize("border", ["Bindings", "I/O Tensors"])
def test_layers_are_counted(layers: list[object], count: LayerCount, border: str) -> None:
    assert count_layers(json.dumps({"Layers": layers, border: ["x"]})) == count


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"Layers": 3}', '{"Layers": [}'])
def test_a_report_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"list of layers|Expecting"):
        count_layers(text)


def test_nested_phases_become_a_fraction() -> None:
    told: list[tuple[float, str]] = []
    phases = Phases(lambda fraction, name: told.append((round(fraction, 3), name)))
    phases.start("build", None, 2)
    phases.step("build", 0)
    phases.start("tactics", "build", 4)
    phases.step("tactics", 0)
    phases.step("tactics", 1)
    phases.start("kernels", "tactics", 2)
    phases.step("kernels", 0)
    phases.finish("kernels")
    phases.step("tactics", 2)
    phases.finish("tactics")
    phases.step("build", 1)
    phases.finish("build")
    fractions = [fraction for fraction, _ in told]
    assert fractions == [0, 0.5, 0.5, 0.625, 0.75, 0.75, 0.812, 0.812, 0.875, 0.875, 1, 1]
    assert told[6] == (0.812, "kernels")
    assert told[-1] == (1, "")


def test_strange_phases_do_not_break_the_bar() -> None:
    told: list[float] = []
    phases = Phases(lambda fraction, _: told.append(fraction))
    phases.step("unknown", 3)
    phases.finish("unknown")
    phases.start("none", "unknown", 0)
    phases.step("none", 9)
    phases.start("again", None, 10)
    assert told == sorted(told) and all(0 <= fraction <= 1 for fraction in told)


STAMP = "[11/24/2026-02:26:43] [TRT] "


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("", ""),
        (f"  \n{STAMP}[I] all is well\nTraceback\nSegmentation fault.\n", "Segmentation fault"),
        (f"{STAMP}[E] one\n{STAMP}[F] two\n{STAMP}[I] x\n{STAMP}[E] three  and\tmore.\n", "two; three and more"),
        (f"{STAMP}[E] 10: Could not find any {{[a...b]}}.\nF: an assertion\n", "10: Could not find any {[a...b]}"),
        (f"{STAMP}[E] {'x' * 3000}\n", "x" * 1000),
    ],
    ids=["empty", "no errors", "errors", "brackets", "long"],
)
def test_what_a_log_says_last(log: str, said: str) -> None:
    assert last_errors(log) == said


def test_messages_of_a_log(tmp_path: Path) -> None:
    """Errors and distinct warnings, the last of the ones and the first of the others; nothing else, torn or not."""
    log = tmp_path / "graph.log"
    lines = [f"{STAMP}[W] {'same ' if index < 40 else str(index)} " + "w" * 400 for index in range(80)]
    lines += [f"{STAMP}[{'FE'[index % 2]}] error {index}." for index in range(50)]
    lines += [f"{STAMP}[I] fine", f"{STAMP}[V] finer", "[E] no stamp", "[TRT] [E]", "noise [TRT] [E] torn  line."]
    log.write_bytes("\n".join(lines).encode() + b"\n[TRT] [W] \xff\n[TRT] [E] cut sh")
    found = read_messages(log)
    assert found.errors == (*(f"error {index}" for index in range(32, 50)), "torn line", "cut sh")
    assert len(found.warnings) == len(set(found.warnings)) == 20
    assert found.warnings[0] == "same " + "w" * 295
    assert found.warnings[1].startswith("40 w") and not [text for text in found.warnings if len(text) > 300]
    log.write_bytes(b"")
    assert read_messages(log) == messages([]) == Messages((), ())
