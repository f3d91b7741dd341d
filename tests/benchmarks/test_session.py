"""The script of all GPU figures: it is valid, prints its settings, and calls what there is."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
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
    found = re.search(rf"^{variable}=\$\{{{variable}-([^}}]*)\}}", TEXT, re.M)
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


SANITIZE = ROOT / "benchmarks" / "gpu" / "sanitize.sh"


def sanitized(tmp_path: Path, program: str, *tools: str) -> subprocess.CompletedProcess[str]:
    """With a program in the place of compute-sanitizer; $@ are its arguments."""
    (path := tmp_path / "sanitizer").write_text(f"#!/bin/bash\n{program}\n")
    path.chmod(0o755)
    return bash(SANITIZE, tmp_path / "out", *tools, SANITIZER=str(path), CUDA_HOME=str(tmp_path))


def test_the_sanitizer_tells_what_each_tool_found(tmp_path: Path) -> None:
    """A finding weighs more than a test that fails; cases in which nothing ran are no success."""
    ran = sanitized(tmp_path, '[ $2 = racecheck ] && exit 9; echo "1 failed"; exit 1')
    assert ran.returncode == 9
    told = [line.partition(",")[0] for line in ran.stdout.splitlines()]
    kinds = [(tool, name) for tool in ("memcheck", "racecheck") for name in ("language_model", "decode_step")]
    assert told == [f"{tool} {name}: exit code {9 if tool == 'racecheck' else 1}" for tool, name in kinds]
    assert (tmp_path / "out" / "memcheck-decode_step.log").read_text() == "1 failed\n"
    assert (tmp_path / "out" / "summary.txt").read_text() == ran.stdout
    assert sanitized(tmp_path, "echo 3 passed", "memcheck").returncode == 0
    assert sanitized(tmp_path, "echo 3 skipped", "memcheck").returncode == 5
    assert sanitized(tmp_path, 'echo "$@" passed', "racecheck").returncode == 5


def test_racecheck_gets_the_kernel_that_it_can_follow(tmp_path: Path) -> None:
    assert sanitized(tmp_path, 'echo "${@: -1}"; echo 1 passed').returncode == 0
    asked = {tool: (tmp_path / "out" / f"{tool}-decode_step.log").read_text() for tool in ("memcheck", "racecheck")}
    assert asked["memcheck"].startswith("one_tile and ") and asked["racecheck"].startswith("checked and ")


def test_the_sanitizer_is_missed_in_a_sentence(tmp_path: Path) -> None:
    ran = bash(SANITIZE, tmp_path / "out", SANITIZER=str(tmp_path / "none"), CUDA_HOME=str(tmp_path))
    if ran.returncode != 2:  # it is installed here
        assert "exit code" in ran.stdout
        return
    assert ran.stderr.startswith("compute-sanitizer was found neither on the path nor in ")


def test_the_sanitizer_asks_for_tests_that_there_are(tmp_path: Path) -> None:
    """Each choice of cases has some."""
    text = SANITIZE.read_text()
    files = {"CASES": "test_language_model.py", "STEPS": "test_decode_step.py", "RACES": "test_decode_step.py"}
    for variable, file in files.items():
        found = re.search(rf"^(?:PYTHON.*\n)?{variable}=\$\{{{variable}:-([^}}]*)\}}", text, re.M)
        assert found is not None
        for choice in found[1].split(" or "):
            command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--collect-only", "-k", choice]
            ran = subprocess.run([*command, f"tests/gpu/{file}"], cwd=ROOT, capture_output=True, text=True)
            assert ran.returncode == 0, ran.stdout


# In place of what takes time: steps that end at once, and leave the folders that others look for.
STUBS = """
step() {
  local name=$1 bundle way; shift
  bundle=$(sed -n 's/.*--bundle \\([^ ]*\\).*/\\1/p' <<< "$*")
  case $name in
    export-*) mkdir -p "$B/${name#export-}" ;;
    build-*) mkdir -p "$bundle/engines/card"; echo '{}' > "$bundle/engines/card/engine.json" ;;
    matrix-*) way=$WORK/ways/${name#matrix-}/separate-held-3; mkdir -p "$way"; echo "$way" > "${way%/*}/ready" ;;
  esac
  echo "$name" >> "$WORK/steps"; echo "0 0s" > "$D/$name"
}
lane() { local name=$1; shift; : > "$WORK/lane-$name"; { "$@"; echo ended > "$WORK/lane-$name"; } & }
"""


def steps_of(tmp_path: Path, **settings: str) -> list[str]:
    """All steps of a session with these settings, in the order in which they came."""
    body = f"set --; source <(sed '/^what=/,$d' {SCRIPT}); {STUBS} start; wait"
    ran = bash("-c", body, WORK=str(tmp_path), MODES="none 3D_only", **settings)
    assert ran.returncode == 0, ran.stderr
    assert not [path for path in tmp_path.glob("lane-*") if path.stat().st_size == 0], "a lane has not ended"
    steps = (tmp_path / "steps").read_text().split()
    assert len(steps) == len(set(steps))
    return steps


def test_the_short_session_measures_our_engines_before_all_else(tmp_path: Path) -> None:
    steps = steps_of(tmp_path, PLUGINS="library.so", WAYS="", WAYS_LLAMA="", TINY_LAYOUTS="separate")
    assert not [name for name in steps if name.startswith(("matrix", "export-qwen-scaled", "engines-qwen", "speed"))]
    measured = [f"{kind}-plugin-{model}" for model in ("qwen", "llama") for kind in ("engines", "scene")]
    first = [name for name in steps if name in (*measured, "prefill-step")]
    assert first == [*measured, "prefill-step"]
    for model in ("qwen", "llama"):
        assert steps.index(f"build-plugin-{model}") < steps.index(f"parity-plugin-{model}") < steps.index(first[0])
        assert f"build-tiny{model}-fp16-plugin" in steps[steps.index("prefill-step") :]
        for mode in ("none", "3D_only"):
            assert f"engines-tiny{model}-fp16-{mode}-plugin" in steps
        rest = ("profile-plugin", "run-plugin", "build-alone-plugin", "build-again-plugin", "torch")
        assert {f"{name}-{model}" for name in rest} | {f"record-{model}-plugin"} <= set(steps)
        assert f"ladder-{model}-plugin" in steps
    assert {"tests-record-tiny", "tests-record-tiny-fp16", "tests-gpu", "tests-operators", "sanitize"} <= set(steps)


def test_without_the_library_all_is_as_before(tmp_path: Path) -> None:
    steps = steps_of(tmp_path)
    assert not [name for name in steps if "plugin" in name or "fp16" in name or name in ("prefill-step", "sanitize")]
    for model in ("qwen", "llama"):
        order = [f"matrix-{model}", f"parity-{model}-separate-held-3", f"engines-{model}", f"profile-{model}"]
        assert [name for name in steps if name in order] == order
        assert f"ladder-{model}-separate-held-3" in steps


def test_both_are_measured_where_both_are_asked_for(tmp_path: Path) -> None:
    steps = steps_of(tmp_path, PLUGINS="library.so", TINY_LAYOUTS="")
    for model in ("qwen", "llama"):
        order = [f"matrix-{model}", f"engines-plugin-{model}", f"engines-{model}", f"build-{model}"]
        assert [name for name in steps if name in order] == order
        assert {f"profile-{model}", f"profile-plugin-{model}"} <= set(steps)
