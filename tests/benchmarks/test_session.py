"""The script of all GPU figures: it is valid, prints its settings, and calls what there is."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path

import pytest

from benchmarks.gpu.matrix_ways import Way
from tests.blocked import ROOT

SCRIPT = ROOT / "benchmarks" / "gpu" / "session.sh"
TEXT = SCRIPT.read_text()


def bash(*arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"} | more)


def test_it_says_what_it_does(tmp_path: Path) -> None:
    assert bash("-n", SCRIPT).returncode == 0
    ran = bash(SCRIPT, WORK=str(tmp_path / "work"))
    assert (ran.returncode, ran.stderr) == (2, "")
    for setting in ("WORK", "HOST_PYTHON", "TRT_PYTHON", "ORT_SITE", "GPU_A GPU_B", "session.sh stop STEP"):
        assert f" {setting} " in ran.stdout


def test_it_calls_modules_that_exist() -> None:
    names = {f"benchmarks.gpu.{name}" for name in re.findall(r"\$\(bench (\w+)\)", TEXT)}
    names |= set(re.findall(r"-m ((?:benchmarks|export|runtime)(?:\.[a-z]\w*)+) ", TEXT))
    assert len(names) > 9
    assert not [name for name in names if importlib.util.find_spec(name) is None]


@pytest.mark.parametrize("variable", ["WAYS", "WAYS_LLAMA"])
def test_its_ways_are_ways_and_some_is_preferred(variable: str) -> None:
    found = re.search(rf"^{variable}=\$\{{{variable}:-([^}}]*)\}}", TEXT, re.M)
    preferred = re.search(r'^PREFER="(.*)"', TEXT, re.M)
    assert found is not None and preferred is not None
    ways = [Way.parse(word).name for word in found[1].split()]
    assert len(ways) == len(set(ways))
    assert {way for way in ways if way.startswith("separate")} & set(preferred[1].split())
    for name in preferred[1].split():
        layout, _, rest = name.partition("-")
        assert Way.parse(":".join([layout, *rest.rsplit("-", 1)])).name == name


def test_a_step_runs_once_and_keeps_its_code(tmp_path: Path) -> None:
    """A lane as the script starts it: the second call of a step gives the first's code and runs nothing."""
    body = f"WORK={tmp_path}; set --; source <(sed '/^what=/,$d' {SCRIPT}); SELF=x\n"
    body += (
        "step one bash -c 'echo said; exit 3'; echo $?; step one bash -c 'echo again'; echo $?; ok one || echo failed"
    )
    ran = bash("-c", body, WORK=str(tmp_path))
    assert ran.stdout.split() == ["3", "3", "failed"], ran.stderr
    assert (tmp_path / "logs" / "one.log").read_text() == "said\n"
    assert (tmp_path / "done" / "one").read_text().startswith("3 ")
