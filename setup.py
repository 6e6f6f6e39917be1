"""The only compiler flags of the project; everything else is in pyproject.toml."""

import os
import shutil
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.modified import newer_group

SOURCES = sorted(path.as_posix() for path in Path("csrc").glob("*.c"))
DEPENDS = sorted(path.as_posix() for path in Path("csrc").rglob("*.[ch]"))
DEPENDS += ["csrc/kernels.def", "setup.py", *map(str, Path("src").rglob("*.pxi"))]
SANITIZE = os.environ.get("INSTEP_SANITIZE")  # e.g. "address,undefined"
ABI3 = os.environ.get("INSTEP_ABI3", "1") == "1" and not sysconfig.get_config_var("Py_GIL_DISABLED")

# Equal bits everywhere: no contraction to FMA, no fast-math. -fno-math-errno and
# -fno-trapping-math change no value; without them GCC vectorizes neither sqrt nor selects.
UNIX = "-O2 -std=gnu11 -ffp-contract=off -fno-math-errno -fno-trapping-math -fvisibility=hidden"
# Nothing is thrown through this code, so it needs no tables for unwinding (native backtraces end in
# it); Windows and the sanitizers want them.
SMALL = "-g0 -fno-asynchronous-unwind-tables"
DEBUG = f"-O1 -g -fno-omit-frame-pointer -fsanitize={SANITIZE}" if SANITIZE else SMALL
FLAGS = {"unix": f"{UNIX} -pthread {DEBUG}".split(), "msvc": f"{UNIX} -g0".split()}
# Flags of each instruction set, given to csrc/isa/<name>.c alone. 512-bit vectors are measured in
# docs/architecture.md.
ISA = {
    "baseline": [],
    "avx2": ["-march=x86-64-v3"],
    "avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
}
# How csrc/isa/<name>.c is optimized: by GCC as fast as with -O3 in two thirds of its size, measured
# in docs/performance.md; with -O3 by compilers that do not know all of this. Remainders get vectors
# of half the length where that pays: of 100 elements AVX2 leaves 4, the others 0 and 4.
HALVES = (
    "-ftree-vectorize -fvect-cost-model=dynamic -funswitch-loops -fpeel-loops"
    " --param=max-completely-peeled-insns=56 -falign-functions=1 -falign-jumps=1"
).split()
NO_HALVES = [*HALVES, "--param=vect-epilogues-nomask=0"]
KERNELS = {"baseline": NO_HALVES, "avx2": HALVES, "avx512": NO_HALVES}


def as_clang_cl(flags: list[str]) -> list[str]:
    return [f"/clang:{flag}" for flag in flags]


class BuildExt(build_ext):
    """Compiles each csrc/isa stub with its own flags and links the objects in."""

    def use_clang_cl(self) -> None:
        """Take clang-cl, which knows the flags above and C11's atomics, instead of cl."""
        compiler = shutil.which(os.environ.get("CC", "clang-cl"))
        if compiler is None:
            raise SystemExit("instep is built with clang-cl on Windows: install LLVM, or set CC")
        self.compiler.initialize(self.plat_name)
        self.compiler.cc = compiler

    def accepts(self, flags: list[str]) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "probe.c").write_text("int main(void) { return 0; }\n")
            try:
                self.compiler.compile([f"{folder}/probe.c"], folder, extra_postargs=flags)
            except Exception:
                return False
            return True

    def kernels(self, isa: str) -> list[str]:
        if SANITIZE:
            return []
        return KERNELS[isa] if self.accepts([*KERNELS[isa], "-Werror"]) else ["-O3"]

    def build_extension(self, ext: Extension) -> None:
        target = self.get_ext_fullpath(ext.name)
        if self.force or newer_group(ext.sources + ext.depends, target, "newer"):
            kind = "msvc" if self.compiler.compiler_type == "msvc" else "unix"
            flags, levels = FLAGS[kind], ISA
            if kind == "msvc":
                self.use_clang_cl()
                machine = "aarch64" if self.plat_name.endswith("arm64") else "x86_64"
                flags = [f"--target={machine}-pc-windows-msvc", *as_clang_cl(flags)]
                levels = {name: as_clang_cl([*level, "-O3"]) for name, level in ISA.items()}
            else:
                levels = {name: level + self.kernels(name) for name, level in ISA.items()}
            isas = [name for name in levels if self.accepts(flags + levels[name])]

            def compile_stub(isa: str) -> list[str]:
                return self.compiler.compile(
                    [f"csrc/isa/{isa}.c"],
                    output_dir=self.build_temp,
                    include_dirs=["csrc", "csrc/include"],
                    extra_postargs=flags + levels[isa],
                )

            with ThreadPoolExecutor() as pool:
                ext.extra_objects = [o for objects in pool.map(compile_stub, isas) for o in objects]
            ext.define_macros += [(f"INSTEP_HAVE_{isa.upper()}", "1") for isa in isas]
            ext.extra_compile_args = flags
            ext.extra_link_args = [f"-fsanitize={SANITIZE}"] if SANITIZE else []
            ext.extra_link_args += ["-pthread"] if kind == "unix" else []
        super().build_extension(ext)


extension = Extension(
    "instep._core",
    ["src/instep/_core.pyx", *SOURCES],
    include_dirs=["csrc", "csrc/include", numpy.get_include()],
    depends=DEPENDS,
    define_macros=[
        ("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION"),
        ("NPY_TARGET_VERSION", "NPY_2_0_API_VERSION"),
    ]
    + ([("Py_LIMITED_API", "0x030B0000")] if ABI3 else []),
    py_limited_api=ABI3,
)
directives = dict(language_level=3, boundscheck=False, wraparound=False, autotestdict=False)
directives["freethreading_compatible"] = True
setup(
    ext_modules=cythonize([extension], compiler_directives=directives),
    cmdclass={"build_ext": BuildExt},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if ABI3 else {},
)
