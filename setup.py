"""Build hook: compiles the C kernels with `make -C kernels` and puts libraries and recipes inside the package.

Everything else about the package stands in pyproject.toml. An editable install compiles the kernels too, but leaves
them in `kernels/build/`, where agq looks for them when the package holds none: so a rebuilt kernel is never shadowed by
an old copy.

`AGQ_CROSS=aarch64-linux-gnu-` builds a wheel for a 64-bit Raspberry Pi on another machine.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py
from setuptools.errors import SetupError

ROOT = Path(__file__).resolve().parent
CROSS = os.environ.get("AGQ_CROSS", "")
# Debian's packages of the compiler.
PACKAGES = f"gcc-{CROSS.rstrip('-')}" if CROSS else "gcc libc6-dev"
ARCHITECTURE = CROSS.split("-")[0] if CROSS else platform.machine()


class BuildKernels(build_py):
    """`build_py` that also compiles the kernels; copies libraries and recipes unless the install is editable."""

    def run(self) -> None:
        if not self.editable_mode:
            shutil.rmtree(
                self.build_lib, ignore_errors=True
            )  # modules that are gone since the last build must not come along
        super().run()
        libraries = compile_kernels()
        if not self.editable_mode:
            for source, target in self._extra_files(libraries).items():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        outputs = super().get_outputs(include_bytecode)
        if not self.editable_mode:
            outputs += [str(target) for target in self._extra_files(built_libraries()).values()]
        return outputs

    def _extra_files(self, libraries: list[Path]) -> dict[Path, Path]:
        package = Path(self.build_lib) / "agq"
        files = {path: package / "lib" / path.name for path in libraries}
        configs = ROOT / "configs"
        files.update(
            {path: package / "configs" / path.relative_to(configs) for path in sorted(configs.rglob("*.yaml"))}
        )
        return files


class PlatformWheel(bdist_wheel):
    """A wheel of `py3-none-<platform>`: it holds compiled libraries, but nothing that depends on a version of
    Python."""

    def finalize_options(self) -> None:
        if CROSS and not self.plat_name:
            self.plat_name = f"linux_{ARCHITECTURE}"
        super().finalize_options()
        self.root_is_pure = False

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


class BinaryDistribution(Distribution):
    """Tells setuptools that the package is specific to a platform."""

    def has_ext_modules(self) -> bool:
        return True


def built_libraries() -> list[Path]:
    return sorted((ROOT / "kernels" / "build" / ARCHITECTURE).glob("libagq-*.so"))


def compile_kernels() -> list[Path]:
    """Runs `make -C kernels`; returns the libraries, one per instruction-set level."""
    compiler = f"{CROSS}gcc" if CROSS else os.environ.get("CC", "gcc").split()[0]
    for tool in ("make", compiler):
        if shutil.which(tool) is None:
            raise SetupError(
                f"agq compiles its C kernels and needs `{tool}`, which is not on this machine.\n"
                f"hint: on Debian, Ubuntu or Raspberry Pi OS: sudo apt-get install {PACKAGES} make"
            )
    command = ["make", "-C", str(ROOT / "kernels"), f"-j{len(os.sched_getaffinity(0))}"]
    if CROSS:
        command.append(f"CROSS={CROSS}")
    try:
        subprocess.run(command, check=True)
    except subprocess.CalledProcessError as error:
        raise SetupError(
            "agq's C kernels could not be compiled: the compiler's own message stands above.\n"
            "hint: gcc 12 or clang 14 and newer are known to work"
        ) from error
    libraries = built_libraries()
    if not libraries:
        raise SetupError(f"make -C kernels left no library in kernels/build/{ARCHITECTURE}")
    return libraries


setup(
    distclass=BinaryDistribution,
    cmdclass={"build_py": BuildKernels, "bdist_wheel": PlatformWheel},
)
