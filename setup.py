"""Builds fastgen._C, the CPU kernels, and the text that the package index shows. Everything else
about the package is in pyproject.toml.

Without a working compiler the package still installs: the PyTorch reference then does the work.
FASTGEN_EXTENSION=required makes a failed build an error, as wheels need it; FASTGEN_EXTENSION=none
leaves the extension out, and so does Windows: csrc is written with the vector types of GCC and
Clang, which Microsoft's compiler does not have.
"""

import importlib.util
import os
import platform
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
# Under these sanitizers of GCC or Clang (python -m tests.sanitize): "address,undefined", "thread".
SANITIZERS = os.environ.get("FASTGEN_SANITIZERS")
if SANITIZERS:
    FLAGS += ["-O1", "-g1", f"-fsanitize={SANITIZERS}", "-fno-omit-frame-pointer"]
    FLAGS += ["-fno-sanitize-recover=undefined", "-D_GLIBCXX_ASSERTIONS"]
# The kernels are long chains of dependent operations: scheduled before registers are assigned,
# noise is a fifth faster (GCC; Clang schedules so anyway and ignores the flag).
KERNEL_FLAGS = ["-fschedule-insns"]
# Every operation's kernels_isa.cpp is compiled once for each of these instruction sets, which it
# knows as FASTGEN_ISA; see csrc/common/isa.h.
ISA_FLAGS = {"baseline": []}
MACROS = []
if platform.machine().lower() in ("x86_64", "amd64") and sys.platform != "win32":
    MACROS = [("FASTGEN_X86", None)]
    # Fused steps are used where they are asked for by name: nothing is contracted.
    ISA_FLAGS["avx2"] = ["-mavx2", "-mfma", "-mf16c"]
    ISA_FLAGS["avx512"] = [f"-mavx512{part}" for part in ("f", "dq", "vl", "bw")]
    # GCC's own AVX-512 headers set off the two warnings.
    ISA_FLAGS["avx512"] += ["-mf16c", "-mprefer-vector-width=512"]
    ISA_FLAGS["avx512"] += ["-Wno-uninitialized", "-Wno-maybe-uninitialized"]
EXTENSION = os.environ.get("FASTGEN_EXTENSION") or "optional"
if EXTENSION not in ("optional", "required", "none"):
    raise SystemExit(f"FASTGEN_EXTENSION={EXTENSION}: expected optional, required or none")
BUILT = EXTENSION == "required" or (EXTENSION == "optional" and sys.platform != "win32")
REPOSITORY = "https://github.com/fastgen-torch/fastgen"
CUDA_SOURCES = sorted(str(s) for s in Path("csrc/assignment/cuda").glob("*.cu*"))
OPENMP = [] if sys.platform == "darwin" else ["-fopenmp"]


def headers_of_pybind11() -> str:
    """Where its headers are: in its package, or in torch's, where there is no network."""
    try:
        import pybind11
    except ImportError:
        found = importlib.util.find_spec("torch")
        for place in (found and found.submodule_search_locations) or []:
            if (Path(place) / "include/pybind11/pybind11.h").exists():
                return str(Path(place) / "include")
        raise
    return str(pybind11.get_include())


@dataclass(frozen=True)
class Unit:
    """A source and how it is compiled: `isa` is one of ISA_FLAGS, or None."""

    source: str
    isa: str | None

    def flags(self):
        if self.isa is None:
            return []
        return [f"-DFASTGEN_ISA={self.isa}", *KERNEL_FLAGS, *ISA_FLAGS[self.isa]]

    def folder(self, objects):
        """Where its object goes: each instruction set has a folder of its own."""
        return objects if self.isa is None else os.path.join(objects, self.isa)

    def is_current(self, built):
        """Whether an object is newer than its source, the headers that it may include, and this."""
        folder = Path(self.source).parent
        headers = [*folder.rglob("*.h"), *Path("csrc/common").glob("*.h")]
        inputs = [Path(self.source), Path(__file__), *headers]
        return built.exists() and built.stat().st_mtime > max(p.stat().st_mtime for p in inputs)


def units(sources):
    for source in sources:
        is_kernel = Path(source).name == "kernels_isa.cpp"
        yield from (Unit(source, isa) for isa in (ISA_FLAGS if is_kernel else [None]))


def description():
    """README.md with its paths as addresses of this version's files, for the package index."""
    version = re.search(r'^version = "(.*)"$', Path("pyproject.toml").read_text("utf-8"), re.M)[1]

    def address(link):
        picture, label, path = link.groups()
        kind = "raw" if picture else "blob"
        return f"{picture}[{label}]({REPOSITORY}/{kind}/v{version}/{path})"

    path = r"(?!https?:|#)[^)\s]+"
    return re.sub(rf"(!?)\[([^]]*)\]\(({path})\)", address, Path("README.md").read_text("utf-8"))


class BuildWithCuda(build_py):
    """Puts the source of the CUDA kernels, compiled when they are used, into the wheel."""

    def run(self):
        super().run()
        if self.editable_mode:  # found in csrc/
            return
        folder = Path(self.build_lib, "fastgen/kernels/assignment/cuda_source")
        folder.mkdir(parents=True, exist_ok=True)
        for source in CUDA_SOURCES:
            shutil.copy(source, folder)


class BuildKernels(build_ext):
    """Compiles each kernel source for its instruction set; a failed build is only a warning."""

    def build_extension(self, ext):
        compile_sources = self.compiler.compile

        def compile_unit(unit, output_dir, extra_postargs, **options):
            folder = unit.folder(output_dir)
            (built,) = self.compiler.object_filenames([unit.source], output_dir=folder)
            if not unit.is_current(Path(built)):
                options["extra_postargs"] = extra_postargs + unit.flags()
                compile_sources([unit.source], output_dir=folder, **options)
            return built

        def compile_in_parallel(sources, **options):
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                return list(pool.map(lambda unit: compile_unit(unit, **options), units(sources)))

        try:
            ext.include_dirs.append(headers_of_pybind11())
            self.compiler.compile = compile_in_parallel
            super().build_extension(ext)
        except Exception as error:
            if not ext.optional:
                raise
            self.warn(
                "fastgen's C++ kernels were not built. fastgen works without them, on slower "
                "PyTorch code; to have them, install a C++17 compiler and reinstall."
            )
            raise CompileError(str(error)) from error  # a warning, for an optional extension


setup(
    long_description=description(),
    long_description_content_type="text/markdown",
    ext_modules=[
        Extension(
            "fastgen._C",
            sorted(str(source) for source in Path("csrc").rglob("*.cpp")),
            depends=[*(str(header) for header in Path("csrc").rglob("*.h")), *CUDA_SOURCES],
            include_dirs=["csrc"],
            define_macros=MACROS,
            extra_compile_args=FLAGS + OPENMP,
            extra_link_args=OPENMP + ([f"-fsanitize={SANITIZERS}"] if SANITIZERS else []),
            language="c++",
            optional=EXTENSION != "required",
        )
    ]
    if BUILT
    else [],
    cmdclass={"build_ext": BuildKernels, "build_py": BuildWithCuda},
)
