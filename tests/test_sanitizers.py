"""The extension under AddressSanitizer and UndefinedBehaviorSanitizer: no byte out of place, no undefined behaviour."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from itertools import count
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
sys.path.append(str(HERE / "fuzz"))

from fuzzing import Worker, hunt  # noqa: E402  from the folder just named

NATIVE = HERE.parent / "native"
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def runtime(name: str) -> str | None:
    """Where the compiler keeps a run-time library; None where it has none."""
    command = ["g++", f"-print-file-name={name}"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return found if os.path.isabs(found) and os.path.exists(found) else None


def missing() -> str | None:
    """Why the extension cannot be built and run under sanitizers here; None where it can."""
    if not sys.platform.startswith("linux"):
        return "the sanitizer's run-time is preloaded as on Linux"
    if shutil.which("g++") is None:
        return "no g++"
    if not NATIVE.is_dir():
        return "no sources beside the tests"
    for name in ("libasan.so", "libubsan.so"):
        if runtime(name) is None:
            return f"g++ has no {name}"
    if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
        return "no Python headers"
    try:
        import nanobind  # noqa: F401
    except ImportError:
        return "no nanobind"
    return None


def build(folder: Path) -> Path:
    """Compiles and links native/module.cpp and nanobind, sanitized."""
    import nanobind

    home = Path(nanobind.__file__).parent
    includes = [
        home / "include",
        home / "ext" / "robin_map" / "include",
        sysconfig.get_path("include"),
        np.get_include(),
        NATIVE,
    ]
    flags = ["-std=c++20", "-O1", "-g", "-fPIC", "-fvisibility=hidden", "-fno-strict-aliasing", "-ffp-contract=off"]
    compile_ = ["g++", *flags, *SANITIZE, *(f"-I{path}" for path in includes)]
    sources = {"module.o": NATIVE / "module.cpp", "nanobind.o": home / "src" / "nb_combined.cpp"}
    jobs = [
        subprocess.Popen([*compile_, "-c", source, "-o", folder / name], stderr=subprocess.PIPE, text=True)
        for name, source in sources.items()
    ]
    for job in jobs:
        _, errors = job.communicate(timeout=200)
        assert job.returncode == 0, errors
    target = folder / f"_native{sysconfig.get_config_var('EXT_SUFFIX')}"
    objects = [folder / name for name in sources]
    subprocess.run(["g++", "-shared", *SANITIZE, *objects, "-o", target], check=True, timeout=100)
    return target


def environment() -> dict[str, str]:
    """What a process needs in which the sanitized module runs."""
    # libstdc++ too: AddressSanitizer must find its __cxa_throw when it starts. Python's allocator would hide overruns.
    preload = " ".join(filter(None, (runtime("libasan.so"), runtime("libstdc++.so.6"))))
    return {
        **os.environ,
        "LD_PRELOAD": preload,
        # What asks for too much memory fails as it does elsewhere.
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=4096",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
    }


def hammer(module: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs hammer.py on the sanitized module."""
    command = [sys.executable, str(HERE / "hammer.py"), str(module), *arguments]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=250)


@pytest.mark.skipif(missing() is not None, reason=missing() or "")
def test_the_sanitizers_find_nothing_on_any_public_path(tmp_path: Path) -> None:
    """One test, as the build takes most of its time: first that the sanitizers see, then that all is well."""
    module = build(tmp_path)
    seen = hammer(module, "overflow")
    assert seen.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in seen.stderr
    done = hammer(module)
    assert done.returncode == 0, done.stderr[-6000:]
    assert done.stdout == "clean\n"
    assert "runtime error" not in done.stderr
    with Worker(module, environment()) as worker:
        for target in ("api", "hostile"):  # random programs, too
            _, _, failures = hunt(worker, target, count(), 1500)
            assert not failures, "\n\n".join(map(str, failures))
