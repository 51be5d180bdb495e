#!/usr/bin/env python3
"""Makes PyTorch's wheel for CUDA work on the processor alone, without the 2.8 GB of CUDA libraries that it names.

    .ci/torch.py SITE-PACKAGES

PyPI has no wheel of PyTorch for Linux that does without CUDA, and none of its libraries loads before all are there that
any of them names. Where there is no GPU they are never called. So each that is missing is replaced by a small one with
the functions that PyTorch refers to, which abort. PyTorch itself stays as it came.
"""

import subprocess
import sys
import tempfile
from pathlib import Path


def read(*command: str | Path) -> list[list[str]]:
    """The output of a command: the words of each line."""
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [line.split() for line in out.splitlines()]


def symbols(library: Path, which: str) -> set[str]:
    """Names that a library defines or leaves open; those that may stay open (weak ones) do not count."""
    lines = (line[-2:] for line in read("nm", "--dynamic", f"--{which}-only", library))
    return {name.split("@")[0] for kind, name in lines if which == "defined" or kind == "U"}


def link(functions: set[str], library: Path) -> None:
    """Makes a shared library with functions that abort."""
    lines = [f"void {name}(void) {{ abort(); }}" for name in sorted(functions)]
    with tempfile.TemporaryDirectory() as folder:
        code = Path(folder, "functions.c")
        code.write_text("\n".join(["extern void abort(void);", *lines, ""]))
        flags = ["-w", "-fPIC", "-shared", f"-Wl,-soname,{library.name}"]
        subprocess.run(["cc", *flags, "-o", library, code], check=True)


def main() -> None:
    libraries = Path(sys.argv[1]) / "torch" / "lib"
    own = sorted(libraries.glob("*.so"))
    around, missing = set(), set()
    for library in own:
        for words in read("ldd", library):
            if words[-2:] == ["not", "found"]:
                missing.add(words[0])
            around |= {Path(word) for word in words if word.startswith("/") and word.endswith(tuple("0123456789"))}
    there = set().union(*(symbols(library, "defined") for library in {*own, *around}))
    needed = set().union(*(symbols(library, "undefined") for library in own)) - there
    # Python's own are the interpreter's, which has them when it loads the library.
    functions = {name for name in needed if not name.lstrip("_").startswith("Py")}
    for name in sorted(missing):
        # One has them all, wherever they are looked for.
        link(functions, libraries / name)
        functions = set()


main()
