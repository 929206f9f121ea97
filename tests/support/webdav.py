"""A real WebDAV server: Apache's mod_dav, as an own process on a port of its own."""

import base64
import hashlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support.cluster import until

NOBODY = 65534
USER, PASSWORD = "bridge", "a password: with all kinds of signs §"
MODULES = Path("/usr/lib/apache2/modules")
_NEEDED = (
    "mpm_event", "authn_core", "authn_file", "authz_core", "authz_user", "auth_basic", "dav",
    "dav_fs", "dav_lock", "setenvif",
)  # fmt: skip
_CONFIGURATION = """
ServerRoot {folder}
ServerName localhost
Listen 127.0.0.1:{port}
PidFile {folder}/pid
ErrorLog {folder}/error.log
{modules}
DocumentRoot {folder}/files
DAVLockDB {folder}/locks
KeepAlive On
MaxKeepAliveRequests 0
{extra}
<Directory {folder}/files>
    Dav On
    DavDepthInfinity Off
    Options None
    AllowOverride None
    AuthType Basic
    AuthName files
    AuthUserFile {folder}/users
    Require user {user}
</Directory>
"""


@dataclass(frozen=True)
class WebDavServer:
    """Apache, and the folder whose `files` it serves."""

    folder: Path
    port: int

    @property
    def files(self) -> Path:
        """What is served."""
        return self.folder / "files"

    @property
    def url(self) -> str:
        """Where it is served."""
        return f"http://127.0.0.1:{self.port}/"

    def password_file(self) -> Path:
        """A secret file with the password."""
        return secret_file(self.folder / "password", PASSWORD + "\n")


def secret_file(path: Path, content: str) -> Path:
    """A file for its owner alone."""
    path.touch(mode=0o600)
    path.write_text(content)
    return path


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert isinstance(port, int)
        return port


def _server() -> str:
    found = shutil.which("apache2") or shutil.which("/usr/sbin/apache2")
    assert found, "apache2-bin is not installed; ci/test installs it"
    return found


@contextmanager
def serving(extra: str = "", modules: tuple[str, ...] = ()) -> Iterator[WebDavServer]:
    """A server until the end of the block. `extra` goes into its configuration.

    Nobody runs it where the tests are run by root, whose folders nobody else may enter.
    """
    program = _server()
    with TemporaryDirectory(prefix="webdav-") as name:
        folder = Path(name)
        found = WebDavServer(folder, free_port())
        found.files.mkdir()
        _configure(found, extra, (*_NEEDED, *modules))
        user = NOBODY if os.geteuid() == 0 else None
        if user:
            for path in (folder, *folder.iterdir()):
                os.chown(path, user, user)
        server = subprocess.Popen(
            [program, "-DFOREGROUND", "-f", str(folder / "apache.conf")],
            stdout=subprocess.DEVNULL, user=user, group=user,
            extra_groups=[] if user else None,
        )  # fmt: skip
        try:
            until("apache", lambda: listens(found.port) or server.poll() is not None, every=0.02)
            assert server.poll() is None, "apache ended at once"
            yield found
        finally:
            server.terminate()
            server.wait(10)


def _configure(server: WebDavServer, extra: str, modules: tuple[str, ...]) -> None:
    digest = base64.b64encode(hashlib.sha1(PASSWORD.encode()).digest()).decode()
    secret_file(server.folder / "users", f"{USER}:{{SHA}}{digest}\n")
    loaded = "\n".join(f"LoadModule {name}_module {MODULES}/mod_{name}.so" for name in modules)
    text = _CONFIGURATION.format(
        folder=server.folder, port=server.port, modules=loaded, extra=extra, user=USER
    )
    (server.folder / "apache.conf").write_text(text)


def listens(port: int) -> bool:
    """Whether somebody listens on a port."""
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0
