"""Image files for hosts without Apptainer, and a program that answers for them as it does.

What Apptainer really says of real files is tested on the cluster (tests/cluster/test_images.py).
"""

from pathlib import Path

from slurmbridge.container.sif import SifReader
from slurmbridge.shell import LocalShell

SQUASHFS = "3    |1       |NONE    |36864-40960               |FS (Squashfs/*System/amd64)"
_APPTAINER = r"""#!/bin/sh
fatal() { printf 'INFO:    Words before\nFATAL:   %s\n' "$*" >&2; exit 255; }
for word; do [ -f "$word" ] && image=$word; done
case $1 in
sif) grep -qx SIF "$image" || exit 1; grep '|' "$image" ;;
inspect) printf '{"data": {"attributes": {"labels": {"title": "a small one"}}}}\n' ;;
verify) grep -qxF "signed $(cat "$3")" "$image" || fatal "signature not found" ;;
--nocolor)
    if grep -qx broken "$image"; then fatal '"env": executable file not found in $PATH'; fi
    printf 'APPTAINER_NAME=x\0HOME=/home/x\0LANG=C\0PATH=/usr/bin\0'
    sed -n 's/^export //p' "$image" | tr '\n' '\0' ;;
esac
"""


def reader(folder: Path) -> SifReader:
    """A reader that asks this program."""
    program = folder / "bin/apptainer"
    program.parent.mkdir(exist_ok=True)
    program.write_text(_APPTAINER)
    program.chmod(0o755)
    return SifReader(LocalShell(("/usr/bin/env", f"PATH={program.parent}:/usr/bin:/bin")))


def write_sif(path: Path, *lines: str, filesystems: tuple[str, ...] = (SQUASHFS,)) -> Path:
    """A file that stands for an image: `export A=b`, `signed KEY` or `broken`, a line each."""
    path.write_text("\n".join(["SIF", *filesystems, *lines, ""]))
    return path
