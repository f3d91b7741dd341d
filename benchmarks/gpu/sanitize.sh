#!/usr/bin/env bash
# Our kernels under NVIDIA's compute-sanitizer: small cases of tests/gpu, about a minute for each tool.
#
#   sanitize.sh OUTPUT [TOOL...]    logs and exit codes into the folder OUTPUT; tools: memcheck racecheck (both)
#
# Settings by environment:
#   PYTHON       for the language model: with pytest and PyTorch for CUDA        (python3)
#   STEP_PYTHON  for the decode kernel: with pytest and cuda-bindings            (PYTHON)
#   STEP_ENV     a shell file to source before STEP_PYTHON                       (none)
#   SANITIZER    the program                          (on the path, in CUDA_HOME, in /usr/local/cuda)
#   CASES        of pytest -k for the language model  (in this file)
#   STEPS        of pytest -k for the decode kernel   (in this file)
#   RACES        the same under racecheck: the kernel without what that cannot follow (plugins/README.md)
#   LIMIT        seconds for one tool over one file   (120)
#
# Exit code 0: all ran and nothing was found; 9 where a tool found something; else pytest's, of the first that failed:
# 5 where no test ran, since tests that skip prove nothing; 124 where the time was over; 2 where the program is missing.
set -u
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
PYTHON=${PYTHON:-python3} LIMIT=${LIMIT:-120}
STEP_PYTHON=${STEP_PYTHON:-$PYTHON} STEP_ENV=${STEP_ENV:-}
CASES=${CASES:-test_prefill and b3-s65-causal or test_prefill and b1-s17-full or test_decode and b4-t3 or garbage}
STEPS=${STEPS:-one_tile and 63 and reference}
RACES=${RACES:-checked and 63 and reference}
export SPATIALLM_LONGEST_WAIT=60000000000 # ns: under a tool the blocks of a grid wait longer for each other
export PYTORCH_NO_CUDA_MEMORY_CACHING=1           # each tensor an allocation of its own, so that what is beside it is no one's
[ $# -gt 0 ] || { sed -n '2,/^set -u/p' "${BASH_SOURCE[0]}" | sed '$d; s/^# \{0,1\}//'; exit 2; }
output=$1; shift
tools=("$@"); [ ${#tools[@]} -gt 0 ] || tools=(memcheck racecheck)

find_sanitizer() {
  local path
  for path in "${SANITIZER:-}" "$(command -v compute-sanitizer)" {"${CUDA_HOME:-/usr/local/cuda}",/usr/local/cuda}/{bin,compute-sanitizer}/compute-sanitizer; do
    [ -n "$path" ] && [ -x "$path" ] && { echo "$path"; return; }
  done
  return 1
}
# under TOOL NAME PYTHON ENV FILE CASES: one tool over one file of tests; its log is kept.
under() {
  local log=$output/$1-$2.log began=$SECONDS code
  (cd "$ROOT" || exit; [ -z "$4" ] || source "$4"
    exec timeout -k 5 "$LIMIT" "$sanitizer" --tool "$1" --error-exitcode 9 \
      "$3" -m pytest -q -p no:cacheprovider --confcutdir=tests/gpu -m gpu "$5" -k "$6") > "$log" 2>&1
  code=$?
  if [ $code = 0 ] && ! grep -qE '[0-9]+ passed' "$log"; then code=5; fi
  echo "$1 $2: exit code $code, $((SECONDS - began)) s: $(grep -E 'ERROR SUMMARY|passed|failed|skipped' "$log" | tail -n 2 | tr '\n' ' ')" | tee -a "$output/summary.txt"
  [ $code = 0 ] || [ $worst = 9 ] || { [ $worst != 0 ] && [ $code != 9 ]; } || worst=$code
}

sanitizer=$(find_sanitizer) || {
  echo "compute-sanitizer was found neither on the path nor in ${CUDA_HOME:-/usr/local/cuda}. It comes with the CUDA toolkit; or name it: SANITIZER=FILE" >&2; exit 2; }
mkdir -p "$output"; output=$(cd "$output" && pwd); : > "$output/summary.txt"
worst=0
for tool in "${tools[@]}"; do
  under "$tool" language_model "$PYTHON" "" tests/gpu/test_language_model.py "$CASES"
  steps=$STEPS; [ "$tool" != racecheck ] || steps=$RACES
  under "$tool" decode_step "$STEP_PYTHON" "$STEP_ENV" tests/gpu/test_decode_step.py "$steps"
done
exit $worst
