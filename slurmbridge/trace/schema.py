"""The JSON schema of a report, for those who read one with a program of their own."""

import json
from typing import Any

from slurmbridge.trace.report import VERSION, TraceReport

NAME = f"urn:slurmbridge:trace-report:{VERSION}"


def schema() -> dict[str, Any]:
    """What stands in a report's JSON text."""
    found = TraceReport.model_json_schema(mode="serialization")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": NAME,
        **found,
        "title": "Trace report",
        "description": "What a traced Process did: one report for each node, and the verdict on "
        "all of them. Times are microseconds since 1970. Names, arguments and the kernel's words "
        "are text of the program: a byte that cannot be printed is \\xNN, a backslash is \\\\, "
        "and a name that was cut ends with \\...LENGTH:DIGEST. The sum of a list's entries and of "
        "what was left out is its total.",
    }


def schema_text() -> str:
    """The same as it is published."""
    return json.dumps(schema(), indent=2) + "\n"
