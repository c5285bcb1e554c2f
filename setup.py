"""Builds fastgen._C, the CPU kernels. Everything else about the package is in pyproject.toml.

Without a working compiler the package still installs: the PyTorch reference then does the work.
"""

import os
import platform
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import CompileError

FLAGS = [
    "-std=c++17",
    "-O3",
    "-g0",
    "-fvisibility=hidden",
    # All backends agree bit for bit only if every product and every sum is rounded.
    "-ffp-contract=off",
    # These two permit vector code and change no result.
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wno-psabi",
]
# The kernels are long chains of dependent operations: scheduled before registers are assigned,
# noise is a fifth faster (GCC; Clang schedules so anyway and ignores the flag).
KERNEL_FLAGS = ["-fschedule-insns"]
# A source named *_baseline, *_avx2 or *_avx512 is compiled for that instruction set.
ISAS = {"baseline": []}
FOREIGN = {"avx2", "avx512"}
MACROS = []
if platform.machine().lower() in ("x86_64", "amd64") and sys.platform != "win32":
    MACROS = [("FASTGEN_X86", None)]
    FOREIGN = set()
    # Fused steps are used where they are asked for by name: nothing is contracted.
    ISAS["avx2"] = ["-mavx2", "-mfma", "-mf16c"]
    ISAS["avx512"] = [f"-mavx512{part}" for part in ("f", "dq", "vl", "bw")]
    # GCC's own AVX-512 headers set off the two warnings.
    ISAS["avx512"] += ["-mf16c", "-mprefer-vector-width=512"]
    ISAS["avx512"] += ["-Wno-uninitialized", "-Wno-maybe-uninitialized"]
CUDA_SOURCES = sorted(str(s) for s in Path("csrc/cuda").glob("*.cu*"))
OPENMP = [] if sys.platform == "darwin" else ["-fopenmp"]


def isa_of(source):
    return source.stem.rpartition("_")[2]


def is_current(built, source):
    """Whether an object is newer than its source, the headers that it may include, and this."""
    headers = [*Path("csrc").glob("*.h"), *source.parent.glob("*.h")]
    inputs = [source, Path(__file__), *headers]
    return built.exists() and built.stat().st_mtime > max(p.stat().st_mtime for p in inputs)


class BuildWithCuda(build_py):
    """Puts the source of the CUDA kernels, compiled when they are used, into the wheel."""

    def run(self):
        super().run()
        if self.editable_mode:  # found in csrc/
            return
        folder = Path(self.build_lib, "fastgen", "couplings", "cuda_source")
        folder.mkdir(parents=True, exist_ok=True)
        for source in CUDA_SOURCES:
            shutil.copy(source, folder)


class BuildKernels(build_ext):
    """Compiles each kernel source for its instruction set; a failed build is only a warning."""

    def build_extension(self, ext):
        compile_sources = self.compiler.compile

        def compile_one(source, extra_postargs, **options):
            (built,) = self.compiler.object_filenames([source], output_dir=options["output_dir"])
            if is_current(Path(built), Path(source)):
                return [built]
            flags = ISAS.get(isa_of(Path(source)))
            extra = [] if flags is None else KERNEL_FLAGS + flags
            return compile_sources([source], extra_postargs=extra_postargs + extra, **options)

        def compile_in_parallel(sources, **options):
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                objects = pool.map(lambda source: compile_one(source, **options), sources)
                return [path for paths in objects for path in paths]

        try:
            import pybind11

            ext.include_dirs.append(pybind11.get_include())
            self.compiler.compile = compile_in_parallel
            super().build_extension(ext)
        except Exception as error:
            self.warn(
                "fastgen's C++ kernels were not built. fastgen works without them, on slower "
                "PyTorch code; to have them, install a C++17 compiler and reinstall."
            )
            raise CompileError(str(error)) from error  # a warning, for an optional extension


setup(
    ext_modules=[
        Extension(
            "fastgen._C",
            sorted(str(s) for s in Path("csrc").rglob("*.cpp") if isa_of(s) not in FOREIGN),
            depends=[*(str(header) for header in Path("csrc").rglob("*.h")), *CUDA_SOURCES],
            include_dirs=["csrc"],
            define_macros=MACROS,
            extra_compile_args=FLAGS + OPENMP,
            extra_link_args=OPENMP,
            language="c++",
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildKernels, "build_py": BuildWithCuda},
)
