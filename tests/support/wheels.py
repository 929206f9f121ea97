"""Small wheels and source archives, made on the spot, and a PEP 503 index of them in a folder."""

import base64
import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from packaging.utils import canonicalize_name

# The first day that a ZIP can name: the same contents give the same bytes.
_DAY = (1980, 1, 1, 0, 0, 0)


def make_wheel(
    folder: Path,
    name: str,
    version: str = "1.0",
    *,
    requires: Sequence[str] = (),
    files: Mapping[str, bytes] | None = None,
    scripts: Mapping[str, str] | None = None,
    tag: str = "py3-none-any",
) -> Path:
    """Write a wheel; `scripts` are console scripts, name and `module:function`."""
    stem = name.replace("-", "_")
    info = f"{stem}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {line}\n" for line in requires)
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}"
    wheel_of = f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n"
    contents = {
        **(files or {f"{stem}/__init__.py": f"VERSION = {version!r}\n".encode()}),
        f"{info}/METADATA": metadata.encode(),
        f"{info}/WHEEL": wheel_of.encode(),
    }
    if scripts:
        lines = "".join(f"{script} = {place}\n" for script, place in scripts.items())
        contents[f"{info}/entry_points.txt"] = f"[console_scripts]\n{lines}".encode()
    record = "".join(_recorded(path, content) for path, content in contents.items())
    contents[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    wheel = folder / f"{stem}-{version}-{tag}.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in contents.items():
            archive.writestr(zipfile.ZipInfo(path, _DAY), content)
    return wheel


def make_source(folder: Path, name: str, version: str = "1.0", *, files: Mapping[str, str]) -> Path:
    """Write a source archive with these files, such as setup.py."""
    stem = f"{name}-{version}"
    archive = folder / f"{stem}.tar.gz"
    described = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    with tarfile.open(archive, "w:gz") as tar:
        for path, text in {"PKG-INFO": described, **files}.items():
            entry = tarfile.TarInfo(f"{stem}/{path}")
            entry.size = len(text.encode())
            tar.addfile(entry, io.BytesIO(text.encode()))
    return archive


def make_spy(folder: Path, mark: str, name: str = "spy") -> Path:
    """Write a source archive that looks round while it is built.

    What it found is the file `seen.json` of the package: variables, mounts, folders that are
    there, and files that hold `mark`, a text that lies where it must not look.
    """
    described = '[build-system]\nrequires = []\nbuild-backend = "looks"\nbackend-path = ["."]\n'
    looks = _SPY.replace("@name@", name).replace("@mark@", mark)
    # Who knows no pyproject.toml runs this one.
    files = {"pyproject.toml": described, "looks.py": looks, "setup.py": "import looks\n"}
    return make_source(folder, name, files=files)


def make_index(folder: Path, archives: Sequence[Path], *, hashed: bool = True) -> Path:
    """Lay out the pages of an index below `folder`, in `index`; its files are copied."""
    pages: dict[str, list[str]] = {}
    for archive in archives:
        name = canonicalize_name(archive.name.split("-")[0])
        place = folder / "index" / name
        place.mkdir(parents=True, exist_ok=True)
        (place / archive.name).write_bytes(archive.read_bytes())
        fragment = f"#sha256={sha256(archive)}" if hashed else ""
        pages.setdefault(name, []).append(
            f'<a href="{archive.name}{fragment}">{archive.name}</a><br>'
        )
    for project, links in pages.items():
        (folder / "index" / project / "index.html").write_text(_page(links))
    listed = [f'<a href="{name}/">{name}</a><br>' for name in sorted(pages)]
    (folder / "index/index.html").write_text(_page(listed))
    return folder / "index"


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on a port of this host; the address of its index."""
    handler = partial(_Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/index/"
        finally:
            server.shutdown()
            thread.join()


def sha256(path: Path) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def _recorded(path: str, content: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    return f"{path},sha256={digest},{len(content)}\n"


def _page(lines: Sequence[str]) -> str:
    body = "\n".join(lines)
    return f"<!DOCTYPE html>\n<html><body>\n{body}\n</body></html>\n"


_SPY = """
import json, os, pathlib, socket, zipfile

SKIPPED = {"/proc", "/sys", "/usr", "/dev"}
PLACES = ["/input", "/code", "/output", "/shared", "/home", "/root", "/etc/slurm", "/etc/munge",
          "/run/munge", "/var/spool", "/run/secrets", "/.sb"]


def listed(path):
    try:
        return sorted(os.listdir(path))
    except OSError as error:
        return error.strerror


def marked():
    for folder, below, files in os.walk("/"):
        below[:] = [name for name in below if os.path.join(folder, name) not in SKIPPED]
        for path in (pathlib.Path(folder, name) for name in files):
            try:
                if path.is_file() and b"@mark@" in path.read_bytes()[:1000000]:
                    yield str(path)
            except OSError:
                pass


def readable(path):
    try:
        return pathlib.Path(path).read_text(errors="replace")
    except OSError as error:
        return error.strerror


def seen():
    return {
        "variables": dict(os.environ),
        "first": readable("/proc/1/environ"),
        "mounts": readable("/proc/self/mountinfo").splitlines(),
        "places": {place: listed(place) for place in PLACES},
        "marked": [path for path in marked() if "looks" not in path],
        "user": [os.getuid(), os.getgid(), socket.gethostname()],
        "status": readable("/proc/self/status").splitlines(),
        "keys": readable("/proc/keys"),
        "processes": [entry for entry in listed("/proc") if entry.isdigit()],
    }


def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "@name@-1.0-py3-none-any.whl"
    info = "@name@-1.0.dist-info"
    files = {
        "@name@/__init__.py": "",
        "@name@/seen.json": json.dumps(seen(), indent=1),
        info + "/METADATA": "Metadata-Version: 2.1\\nName: @name@\\nVersion: 1.0\\n",
        info + "/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }
    record = "".join(path + ",,\\n" for path in files) + info + "/RECORD,,\\n"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as archive:
        for path, text in {**files, info + "/RECORD": record}.items():
            archive.writestr(path, text)
    return name
"""
