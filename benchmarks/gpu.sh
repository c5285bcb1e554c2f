#!/usr/bin/env bash
# One call on a machine with one GPU, under 10 minutes: build the C++ kernels, run the tests marked
# gpu, then the benchmarks. Results go to $OUT (default: benchmarks/results/gpu). Nothing is installed
# or downloaded; what is missing is named and left out. Without a GPU:
#   benchmarks/gpu.sh --device cpu --quick
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-$(command -v python3 || command -v python)}
OUT=${OUT:-benchmarks/results/gpu}
mkdir -p "$OUT"
failed=0

"$PYTHON" - <<'PY'
import importlib.util, platform
print("python", platform.python_version())
for name in ("torch", "triton", "numpy", "pybind11", "setuptools", "pytest", "hypothesis",
             "diffusers", "k_diffusion", "torchdiffeq"):
    try:
        there = importlib.util.find_spec(name)
        print(f"{name:12}", getattr(__import__(name), "__version__", "yes") if there else "missing")
    except Exception as error:
        print(f"{name:12} broken: {error}")
PY

echo "== build"
if timeout 90 "$PYTHON" setup.py build_ext --inplace > "$OUT/build.log" 2>&1 &&
    "$PYTHON" -c "import torch, fastgen._C" 2>> "$OUT/build.log"; then
    echo "C++ kernels built"
else
    echo "C++ kernels not built (see $OUT/build.log): the PyTorch reference stands in"
    tail -3 "$OUT/build.log"
fi

echo "== tests marked gpu"
# The noise and the stages first: should the time run out, the rest is missing.
TESTS="tests/kernels/test_normals_triton.py tests/kernels/test_combine_triton.py
    tests/kernels/test_brownian_triton.py tests/sampling/test_capture.py
    tests/sampling/test_synchronisation.py tests/sampling/test_serving.py
    tests/kernels/test_stochastic_combine_triton.py tests/kernels/test_bridge_triton.py
    tests/kernels/test_pairwise_triton.py tests/kernels/test_runge_kutta.py
    tests/ode/test_engine.py tests/couplings/test_cuda_assignment.py"
if ! "$PYTHON" -c "import pytest" 2> /dev/null; then
    echo "pytest is missing: tests left out"
elif ! "$PYTHON" -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then
    echo "no GPU: only collected"
    # shellcheck disable=SC2086
    "$PYTHON" -m pytest -q -m gpu --collect-only $TESTS | tail -1
else
    # shellcheck disable=SC2086
    timeout -s INT -k 10 "${TEST_SECONDS:-180}" "$PYTHON" -m pytest -q -m "gpu and not slow" \
        -p no:cacheprovider $TESTS --durations=5 > "$OUT/tests.log" 2>&1 || failed=1
    tail -25 "$OUT/tests.log"
fi

echo "== benchmarks"
timeout -s INT -k 10 "${BENCH_SECONDS:-310}" "$PYTHON" -m benchmarks.gpu --seconds 260 --out "$OUT/gpu.csv" "$@" \
    2> "$OUT/bench.log" || { failed=1; tail -20 "$OUT/bench.log"; }
exit $failed
