"""Looks at the database after every transaction, past the bridge's own code."""

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from slurmbridge.lifecycle import FINAL_STATES, Phase, ProcessState
from slurmbridge.store import Database, HelperStore, ImageStore, Limits, SiteStore
from slurmbridge.testing.simulation.cluster import CAPABILITY
from slurmbridge.testing.simulation.gate import Machine
from slurmbridge.testing.simulation.given import HELPERS, IMAGE, START
from slurmbridge.testing.simulation.truth import Told, Violation

_FINAL = ", ".join(f"'{state}'" for state in sorted(FINAL_STATES))
# What shows in a Process; who holds it is no part of that.
_SHOWN = (
    "state", "phase", "job_id", "slurm_state", "exit_code", "reason", "started_at", "ended_at",
    "outputs", "outputs_location", "not_before", "missing_since", "script", "intended_at",
)  # fmt: skip
_MOVED = " OR ".join(f"old.{name} IS NOT new.{name}" for name in _SHOWN)
_TRIGGERS = f"""
CREATE TABLE touched(id TEXT, wrong TEXT);
CREATE TRIGGER process_added AFTER INSERT ON process BEGIN
    INSERT INTO touched VALUES(new.id, NULL); END;
CREATE TRIGGER process_moved AFTER UPDATE ON process WHEN {_MOVED} BEGIN
    INSERT INTO touched VALUES(new.id, CASE WHEN old.state IN ({_FINAL})
        THEN 'final state left: ' || old.state || ' to ' || new.state END); END;
CREATE TRIGGER process_removed BEFORE DELETE ON process BEGIN
    INSERT INTO touched VALUES(old.id, 'a Process was removed'); END;
CREATE TRIGGER event_added AFTER INSERT ON process_event BEGIN
    INSERT INTO touched VALUES(new.process_id, NULL); END;
CREATE TRIGGER event_changed BEFORE UPDATE ON process_event BEGIN
    INSERT INTO touched VALUES(old.process_id, 'an event was changed'); END;
CREATE TRIGGER event_removed BEFORE DELETE ON process_event BEGIN
    INSERT INTO touched VALUES(old.process_id, 'an event was removed'); END;
"""
_BUSY = (Phase.SUBMITTING.name, Phase.SUBMITTED.name, Phase.COLLECTING.name)


def _driver(database: Database) -> Any:
    # In memory there is one connection, which the pool keeps.
    with database.engine.connect() as connection:
        return connection.connection.driver_connection


@cache
def _template() -> bytes:
    database = Database("sqlite://")
    database.migrate()
    ImageStore(database).record(IMAGE)
    HelperStore(database, HELPERS.source_sha256).record(HELPERS)
    SiteStore(database).record_capability(CAPABILITY.model_copy(update={"observed_at": START}))
    driver = _driver(database)
    driver.executescript(_TRIGGERS)
    content: bytes = driver.serialize()
    database.close()
    return content


@cache
def _shared() -> Database:
    # Statements are compiled once for each engine, which costs more than a simulation's queries.
    return Database("sqlite://")


class Auditor:
    """The database of one simulation, and what has to hold in it."""

    def __init__(self, limits: Limits) -> None:
        self.database = _shared()
        self._driver = _driver(self.database)
        self._driver.deserialize(_template())
        self._limits = limits

    def check(self, machine: Machine) -> None:
        """Called after every transaction that may write. Raises Violation."""
        touched = self._driver.execute("SELECT DISTINCT id, wrong FROM touched").fetchall()
        if not touched:
            return
        self._driver.execute("DELETE FROM touched")
        for process_id, wrong in touched:
            if wrong:
                raise Violation("history", process_id, wrong)
            self._check_one(process_id)
        if machine.runner is not None and not self._on_roster(machine.runner):
            detail = f"{machine.name} was struck off, and changes it"
            raise Violation("struck Runner", touched[0][0], detail)
        self._check_limits()

    def _check_one(self, process_id: str) -> None:
        row = self._driver.execute(
            "SELECT state, phase, (SELECT state FROM process_event WHERE process_id = process.id"
            " ORDER BY id DESC LIMIT 1) FROM process WHERE id = ?",
            (process_id,),
        ).fetchone()
        state, phase, told = row
        if state != told:
            raise Violation("history", process_id, f"is {state}, and its last event says {told}")
        if ProcessState[state].final is not (Phase[phase] is Phase.DONE):
            raise Violation("history", process_id, f"is {state} in phase {phase}")

    def _on_roster(self, runner: str) -> bool:
        query = "SELECT 1 FROM runner WHERE id = ?"
        return self._driver.execute(query, (runner,)).fetchone() is not None

    def _check_limits(self) -> None:
        limits = self._limits
        if limits == Limits():
            return
        query = "SELECT account, partition, count(*) FROM process WHERE phase IN (?, ?, ?)"
        rows = self._driver.execute(query + " GROUP BY 1, 2", _BUSY).fetchall()
        found = {"cluster": sum(row[2] for row in rows)}
        for account, partition, count in rows:
            found[f"account {account}"] = found.get(f"account {account}", 0) + count
            found[f"partition {partition}"] = found.get(f"partition {partition}", 0) + count
        for name, count in found.items():
            most = getattr(limits, name.split()[0])
            if most is not None and count > most:
                raise Violation("limits", name, f"{count} in progress, {most} are allowed")

    def holds(self, runner: str | None, process_id: str) -> bool:
        """Whether a Process is a Runner's to work on, or nobody's any more."""
        query = "SELECT claimed_by, phase FROM process WHERE id = ?"
        row = self._driver.execute(query, (process_id,)).fetchone()
        if row is None or row[1] == Phase.DONE.name:
            return True
        return runner is not None and row[0] == runner and self._on_roster(runner)

    # --- at the end ---

    def open(self) -> list[str]:
        """The Processes that have not ended."""
        query = "SELECT id FROM process WHERE phase <> 'DONE' ORDER BY id"
        return [row[0] for row in self._driver.execute(query)]

    def held(self) -> list[str]:
        """The Processes that a Runner holds. What one that is gone has held is free."""
        query = "SELECT id FROM process WHERE claimed_by IN (SELECT id FROM runner) ORDER BY id"
        return [row[0] for row in self._driver.execute(query)]

    def by_key(self) -> Mapping[str, list[str]]:
        """The Processes that were accepted, by the key of the request."""
        query = "SELECT idempotency_key, id FROM process ORDER BY id"
        found: dict[str, list[str]] = {}
        for key, process_id in self._driver.execute(query):
            found.setdefault(key, []).append(process_id)
        return found

    def told(self) -> list[Told]:
        """How each Process ended."""
        query = "SELECT id, state, exit_code, reason, outputs FROM process ORDER BY id"
        return [
            Told(
                row[0], ProcessState[row[1]], row[2], row[3],
                {entry["path"]: entry["sha256"] for entry in json.loads(row[4])},
            )
            for row in self._driver.execute(query)
        ]  # fmt: skip
