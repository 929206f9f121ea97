"""What units say of the store and of all that works on it, said on every kind of database.

The tests are those of `tests/unit` that ask for a database, a store or a bridge.
"""

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

from tests.unit import (
    test_admission,
    test_bridge,
    test_cancel,
    test_ends,
    test_idempotency,
    test_observing,
    test_runners,
    test_silence,
    test_standing,
    test_store,
    test_store_kept,
)
from tests.unit.test_standing import one, two

WANTED = {"database", "store", "bridge", "one"}
# These bring databases of their own along.
OTHERS = {"front", "client"}


def borrowed(module: ModuleType) -> dict[str, Callable[..., Any]]:
    found = {
        name: value
        for name, value in vars(module).items()
        if name.startswith("test_")
        and WANTED & set(parameters := inspect.signature(value).parameters)
        and not OTHERS & set(parameters)
    }
    assert found, module
    return found


assert one
assert two
for _module in (
    test_admission,
    test_bridge,
    test_cancel,
    test_ends,
    test_idempotency,
    test_observing,
    test_runners,
    test_silence,
    test_standing,
    test_store,
    test_store_kept,
):
    for _name, _test in borrowed(_module).items():
        assert _name not in globals(), _name
        globals()[_name] = _test
