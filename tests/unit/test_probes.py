"""The table of probes: whole, controlled, and the same in code and in the document."""

import re
from pathlib import Path

import pytest

from slurmbridge.errors import InvalidProcess
from slurmbridge.spec import parse_spec
from tests.support.escape.table import PROBES
from tests.support.facts import environment, make_plan
from tests.support.verdicts import BARE_OPEN, OPEN_BY_DESIGN, table

PAGE = Path(__file__).resolve().parents[2] / "docs/probes.md"
# Every row of the table of probes that concerns one sealed program: the network of a job, what its
# end leaves, and bad input have tests of their own.
ROWS = [
    *(f"N{number}" for number in (*range(1, 14), 18, 19)),
    *(f"F{number}" for number in range(1, 15)),
    *(f"P{number}" for number in (1, 2, 3, 4, 5, 7, 8, 9, 10, 11)),
    *(f"K{number}" for number in range(1, 16)),
    *(f"S{number}" for number in (1, 2, 3, 4, 5, 7, 8)),
    "E1",
    "E3",
]


def test_each_probe_has_an_id_and_a_name_of_its_own() -> None:
    assert len({probe.id for probe in PROBES}) == len({probe.name for probe in PROBES})
    assert len({probe.id for probe in PROBES}) == len(PROBES)


@pytest.mark.parametrize("row", ROWS)
def test_every_row_has_a_probe(row: str) -> None:
    assert [probe for probe in PROBES if re.fullmatch(rf"{row}[a-z]?", probe.id)]


def test_at_least_sixty_probes_are_shown_to_be_able_to_fail() -> None:
    assert len([probe for probe in PROBES if probe.control != "none"]) >= 60


def test_a_probe_without_a_control_says_why() -> None:
    assert [probe.id for probe in PROBES if (probe.control == "none") != bool(probe.reason)] == []


def test_what_is_expected_is_expected_of_a_probe() -> None:
    assert {*BARE_OPEN, *OPEN_BY_DESIGN} <= {probe.id for probe in PROBES}
    assert {probe.id for probe in PROBES if probe.control == "bare"} <= BARE_OPEN


def test_the_document_lists_exactly_the_probes() -> None:
    lines = [line for line in PAGE.read_text().splitlines() if re.match(r"\| [A-Z]\d", line)]
    assert [[cell.strip() for cell in line.strip("|").split("|")] for line in lines] == table()


def test_the_document_counts_them_and_says_what_is_open_by_design() -> None:
    text = PAGE.read_text()
    assert f"{len(PROBES)} probes" in text
    for name, reason in OPEN_BY_DESIGN.items():
        assert f"- {name}: {reason}" in text


@pytest.mark.parametrize(
    "name",
    [name for name in environment(make_plan()) if re.match("APPTAINER|SINGULARITY|SLURM", name)],
)
def test_a_submitter_cannot_set_a_variable_of_the_launcher(name: str) -> None:
    spec = {"image": "python", "command": ["true"], "environment": {name: "/etc:/etc"}}
    with pytest.raises(InvalidProcess):
        parse_spec(spec)
