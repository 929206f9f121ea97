"""Asks roc-validator about crates, without a network. Run by .venv/validator/bin/python.

Standard input: {"contexts": {URL: file}, "crates": [[folder, profile, severity], ...]}.
The file named as the argument gets, for each crate, a list of [check, what it says, entity].
Standard output is roc-validator's own.
"""

import io
import json
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn


def no_network(*_: object, **__: object) -> NoReturn:
    """Stands in for everything that would leave the machine."""
    raise AssertionError("roc-validator asks the network")


socket.socket.connect = no_network  # type: ignore[method-assign]
socket.getaddrinfo = no_network

from rdflib.plugins.sparql import prepareQuery  # noqa: E402
from rdflib.plugins.sparql.processor import SPARQLProcessor  # noqa: E402
from rdflib.plugins.sparql.sparql import Query  # noqa: E402
from requests import PreparedRequest, Response  # noqa: E402
from requests.adapters import BaseAdapter  # noqa: E402
from requests_cache import CachedSession  # noqa: E402
from rocrate_validator.models import Severity, ValidationSettings  # noqa: E402
from rocrate_validator.services import validate  # noqa: E402
from urllib3 import HTTPResponse  # noqa: E402


class FromFiles(BaseAdapter):
    """Answers with files, in place of the network."""

    def __init__(self, files: dict[str, str]) -> None:
        super().__init__()
        self._files = files

    def send(self, request: PreparedRequest, *_: Any, **__: Any) -> Response:
        """Raises KeyError for what is not among the files."""
        response = Response()
        body = io.BytesIO(Path(self._files[str(request.url)]).read_bytes())
        response.raw = HTTPResponse(
            body=body,
            status=200,
            headers={"Content-Type": "application/ld+json"},
            preload_content=False,
            request_url=request.url,
        )
        response.status_code = 200
        response.headers["Content-Type"] = "application/ld+json"
        response.url = str(request.url)
        response.request = request
        return response

    def close(self) -> None:
        """Nothing is open."""


def fill(cache: Path, files: dict[str, str]) -> None:
    """Put files into the cache from which roc-validator reads when it is offline."""
    with CachedSession(str(cache), backend="sqlite", expire_after=-1) as session:
        session.mount("https://", FromFiles(files))
        for url in files:
            session.get(url)


def parse_once() -> None:
    """Let rdflib keep the queries that it has read: reading them is three quarters of the time."""
    query = SPARQLProcessor.query
    known: dict[tuple[str, str], Query] = {}

    def kept(self: SPARQLProcessor, text: Any, bindings: Any, names: Any, base: Any = None) -> Any:
        key = (str(text), repr(names) + str(base))
        if key not in known:
            known[key] = text if isinstance(text, Query) else prepareQuery(text, names, base)
        return query(self, known[key], bindings, names, base)

    SPARQLProcessor.query = kept


def ask(crate: list[str], cache: Path) -> list[list[str | None]]:
    """What is wrong with a crate; nothing, when nothing is."""
    folder, profile, severity = crate
    settings = ValidationSettings(
        rocrate_uri=folder,
        profile_identifier=profile,
        requirement_severity=Severity[severity],
        offline=True,
        cache_path=cache,
    )
    result = validate(settings)
    return sorted(
        [issue.check.identifier, issue.message, issue.violatingEntity]
        for issue in result.get_issues()
    )


def main() -> None:
    """Read the question, write the answers."""
    question = json.load(sys.stdin)
    parse_once()
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        fill(cache, question["contexts"])
        answers = [ask(crate, cache) for crate in question["crates"]]
    Path(sys.argv[1]).write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
