"""Runners that are killed in the midst of their work lose nothing and run nothing twice.

A few kills of the many that `ci/crash-matrix` makes: at each effect that is met on the way.
"""

from collections import Counter

import pytest

from tests.support.cluster import Cluster
from tests.support.crashing import crash, problems

pytestmark = pytest.mark.cluster
KILLS = 12


def test_a_runner_may_die_before_and_after_each_of_its_side_effects(bridge: Cluster) -> None:
    found = crash(bridge, kills=KILLS, at_once=4)
    assert problems(bridge, found) == []
    assert found["kills"] >= KILLS
    points = Counter(point.rpartition(" | ")[2] for point in found["killed"])
    assert points["before"] >= KILLS / 4
    assert points["after"] >= KILLS / 4
