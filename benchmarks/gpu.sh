#!/usr/bin/env bash
# One call on a machine with one GPU, at most 500 seconds (SECONDS_IN_ALL): build the C++ kernels, run
# the tests marked gpu, then the benchmarks in the order of their value. Results go to $OUT (default:
# benchmarks/results/gpu) as they come, and another call goes on where this one stopped: what was
# built, has passed and was measured is kept (FRESH=1 begins anew). Nothing is installed or
# downloaded; what is missing is named and left out. DRY=1 goes the same way without a GPU: a few
# quick tests in Triton's interpreter, every benchmark once at tiny sizes on the CPU.
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-$(command -v python3 || command -v python)}
OUT=${OUT:-benchmarks/results/gpu}
WHOLE=${SECONDS_IN_ALL:-500}
SECONDS=0
mkdir -p "$OUT"
[ -n "${FRESH:-}" ] && rm -f "$OUT"/built "$OUT"/passed "$OUT"/gpu.csv
# Deterministic algorithms, by which tests poison memory, let cuBLAS run only with this.
export CUBLAS_WORKSPACE_CONFIG=${CUBLAS_WORKSPACE_CONFIG:-:4096:8}
failed=0

has() { "$PYTHON" -c "import $1" 2> /dev/null; }
marked="gpu and not slow" each="" device=()
if [ -n "${DRY:-}" ]; then
    marked="not gpu and not slow" each="(philox or bound_calls or synchronisation)" device=(--device cpu --quick)
elif ! "$PYTHON" -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then
    echo "no GPU; DRY=1 runs without one"
    exit 2
fi

"$PYTHON" - <<'PY'
import importlib.metadata, platform
print("python", platform.python_version())
for name in ("torch", "triton", "numpy", "pybind11", "setuptools", "pytest", "pytest-xdist",
             "hypothesis", "diffusers", "k-diffusion", "torchdiffeq"):
    try:
        print(f"{name:12}", importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        print(f"{name:12} missing")
PY

echo "== build"
sources=$(cat setup.py $(find csrc -type f | sort) | cksum)
built=$(cat "$OUT/built" 2> /dev/null)
if [ "${DRY:+$sources}" = "$sources" ] || [ "$built" = "$sources" ] && has torch,fastgen._C; then
    echo "C++ kernels are there"
elif MAX_JOBS=${MAX_JOBS:-16} timeout "${BUILD_SECONDS:-120}" "$PYTHON" setup.py build_ext --inplace > "$OUT/build.log" 2>&1 &&
    "$PYTHON" -c "import torch, fastgen._C" 2>> "$OUT/build.log"; then
    echo "$sources" > "$OUT/built"
    echo "C++ kernels built in $SECONDS s"
else
    echo "C++ kernels not built (see $OUT/build.log): the PyTorch reference stands in"
    tail -3 "$OUT/build.log"
fi

echo "== tests marked gpu"
# The noise and the stages first: should the time run out, the rest is left to the next call.
TESTS="tests/kernels/test_normals_triton.py tests/kernels/test_combine_triton.py
    tests/sampling/test_capture.py tests/sampling/test_synchronisation.py
    tests/sampling/test_serving.py tests/kernels/test_runge_kutta.py
    tests/kernels/test_stochastic_combine_triton.py tests/kernels/test_bridge_triton.py
    tests/kernels/test_pairwise_triton.py tests/ode/test_engine.py
    tests/kernels/test_brownian_triton.py tests/couplings/test_cuda_assignment.py"
# What takes all of the device's memory or minutes comes last, alone.
LAST="all_limits or 2_to_the_31"
[ -n "${DRY:-}" ] && LAST="beyond_32"
run_tests() { # SECONDS, what to choose, further arguments
    local most=$1 chosen=$2
    shift 2
    # shellcheck disable=SC2086
    FASTGEN_PASSED="$OUT/passed" timeout -s INT -k 10 "$most" "$PYTHON" -m pytest -q \
        -m "$marked" -k "$chosen" -p no:cacheprovider -p tests.support.resumed \
        --continue-on-collection-errors \
        "$@" $TESTS --durations=5 >> "$OUT/tests.log" 2>&1
    case $? in
        0) ;;
        5) echo "nothing left of: $chosen" ;; # all of it has passed before
        *) failed=1 ;;
    esac
}
if has pytest; then
    : > "$OUT/tests.log"
    parallel=()
    has xdist && parallel=(-n "${TEST_PROCESSES:-8}")
    run_tests "${TEST_SECONDS:-170}" "${each:+$each and }not ($LAST)" "${parallel[@]}"
    tail -15 "$OUT/tests.log"
else
    echo "pytest is missing: tests left out"
fi
echo "$SECONDS s"

echo "== benchmarks"
left=$((WHOLE - SECONDS - 20))
if [ "$left" -lt 30 ]; then
    echo "no time left for benchmarks; call again"
else
    timeout -s INT -k 10 "$left" "$PYTHON" -m benchmarks.gpu --resume --seconds $((left - 25)) \
        --out "$OUT/gpu.csv" "${device[@]}" "$@" 2> "$OUT/bench.log" || { failed=1; tail -20 "$OUT/bench.log"; }
fi

left=$((WHOLE - SECONDS - 5))
if [ "$left" -gt 60 ] && has pytest; then
    echo "== the longest tests"
    run_tests "$left" "$LAST"
    tail -3 "$OUT/tests.log"
fi
echo "$SECONDS s in all"
exit $failed
