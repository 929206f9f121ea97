"""What the documents say of the code: variables, keys, fields, states, commands, links."""

import re
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from pydantic import BaseModel

from slurmbridge.cli import app
from slurmbridge.lifecycle import ProcessState, SlurmFlag, SlurmState
from slurmbridge.script import DoctorContext, RequirementsContext, ScriptContext
from slurmbridge.spec import ProcessSpec

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "sbatch_templates/README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def table_rows(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        if line.startswith("| `"):
            yield [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def type_name(kind: Any) -> str:
    return kind.__name__ if type(kind) is type else str(kind).replace("slurmbridge.script.", "")


def test_every_variable_of_the_templates_is_described_with_its_type() -> None:
    text = (ROOT / "sbatch_templates/README.md").read_text().partition("## Variables")[2]
    described = {row[0].strip("`"): row[1].strip("`") for row in table_rows(text)}
    hints = {
        name: kind
        for context in (DoctorContext, RequirementsContext, ScriptContext)
        for name, kind in typing.get_type_hints(context).items()
    }
    assert described == {name: type_name(kind) for name, kind in hints.items()}


def test_every_part_of_the_templates_is_described() -> None:
    text = (ROOT / "sbatch_templates/README.md").read_text()
    folder = ROOT / "sbatch_templates"
    for path in folder.rglob("*.j2"):
        assert f"`{path.relative_to(folder)}`" in text


def test_the_table_of_settings_is_up_to_date() -> None:
    argv = [sys.executable, str(ROOT / "ci/lib/settings_page.py"), "--check"]
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    assert (done.stderr, done.returncode) == ("", 0)


def field_names(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner = [
            kind
            for kind in (field.annotation, *typing.get_args(field.annotation))
            if isinstance(kind, type) and issubclass(kind, BaseModel)
        ]
        many = typing.get_origin(field.annotation) is tuple
        if inner:
            yield from (f"{name}{'[]' if many else ''}.{below}" for below in field_names(inner[0]))
        else:
            yield name


def test_every_field_of_a_specification_is_described() -> None:
    text = (ROOT / "docs/specification.md").read_text()
    fields = text.partition("## Fields")[2].partition("\n## ")[0]
    assert {row[0].strip("`") for row in table_rows(fields)} == set(field_names(ProcessSpec))


def test_every_state_is_described() -> None:
    states = (ROOT / "docs/api.md").read_text().partition("## States")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| ([A-Z_]+) \|", states, re.M)) == set(ProcessState.__members__)
    decision = (ROOT / "docs/adr/0002-state-names.md").read_text()
    words = set(re.findall(r"[A-Z_]+", decision))
    assert set(SlurmState.__members__) | set(SlurmFlag.__members__) <= words


def test_every_decision_is_listed() -> None:
    listed = (ROOT / "docs/adr/README.md").read_text()
    for path in (ROOT / "docs/adr").glob("0*.md"):
        assert f"]({path.name})" in listed
        title = path.read_text().partition("\n")[0]
        assert title.startswith(f"# {path.name[:4]}: ")


def commands_in(text: str) -> Iterator[list[str]]:
    """The words after `slurmbridge` in console lines and in code spans."""
    for line in re.findall(r"^\$ (.*)$", text, re.M):
        if found := re.search(r"(?:^|/| )slurmbridge ([a-z].*)$", line):
            yield found[1].split()
    for span in re.findall(r"`slurmbridge ([a-z-][^`]*)`", text):
        yield span.split()


@each_page
def test_every_command_that_is_named_exists(page: Path) -> None:
    root = typer.main.get_command(app)
    for words in commands_in(page.read_text()):
        command: Any = root
        while hasattr(command, "commands"):
            word = words.pop(0).rstrip(")")
            assert word in command.commands, f"slurmbridge ... {word}"
            command = command.commands[word]
        known = {option for parameter in command.params for option in parameter.opts}
        named = {re.sub(r"=.*", "", word).rstrip(")") for word in words if word.startswith("--")}
        assert named <= known, command.name


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub turns them into anchors."""
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.S), re.M
    )
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@each_page
def test_every_script_of_ci_that_is_named_exists(page: Path) -> None:
    for name in re.findall(r"`(\.?ci/[\w./-]+)", page.read_text()):
        assert (ROOT / name).exists(), name


@each_page
def test_every_test_that_is_named_exists(page: Path) -> None:
    text = page.read_text()
    sources = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for name in re.findall(r"`(test_\w+)`", text):
        assert f"def {name}(" in sources, name
    for name in re.findall(
        r"(?<![\w/])(?:slurmbridge|tests|examples|definitions)/[\w./-]+\.(?:py|toml|def)", text
    ):
        assert (ROOT / name).exists(), name


def test_what_is_said_to_be_tested_is_tested() -> None:
    named = re.findall(r"`(tests/\w+/test_\w+\.py)`", (ROOT / "docs/sealing.md").read_text())
    assert len(named) > 8
    for name in named:
        assert (ROOT / name).is_file(), name
