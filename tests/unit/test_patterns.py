"""A site says by names which outputs are let out."""

import pytest

from slurmbridge.context.carrying import FolderPlace, Load, carry_out
from slurmbridge.context.folder import ContextFolder
from slurmbridge.context.patterns import kept_back, matches
from slurmbridge.context.tree import Bounds


@pytest.mark.parametrize(
    ("pattern", "path", "matched"),
    [
        ("*.csv", "a.csv", True),
        ("*.csv", "deep/er/a.csv", True),
        ("*.csv", "a.csv.gz", False),
        ("*.CSV", "a.csv", False),
        ("figures/*.png", "figures/a.png", True),
        ("figures/*.png", "figures/deep/a.png", False),
        ("figures/*.png", "other/figures/a.png", False),
        ("figures/**/*.png", "figures/a.png", True),
        ("figures/**/*.png", "figures/deep/er/a.png", True),
        ("**/a", "a", True),
        ("**/a", "b/a", True),
        ("a/**", "a/b/c", True),
        ("[ab]?.txt", "b1.txt", True),
    ],
)
def test_a_pattern_is_for_a_name_or_for_a_whole_path(
    pattern: str, path: str, matched: bool
) -> None:
    assert matches(path, pattern) is matched


def test_without_patterns_everything_is_let_out_and_with_none_nothing() -> None:
    assert kept_back(None)("anything") is None
    assert kept_back(())("anything") == "its name is none of: none is let out"


def test_what_is_kept_back_is_listed_and_not_carried(
    folder: ContextFolder, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (folder.path / "output/deep").mkdir(parents=True)
    for name in ("a.csv", "deep/b.csv", "input-copy.parquet"):
        (folder.path / "output" / name).write_text("1")
    target = tmp_path_factory.mktemp("results") / "one"
    load = Load(Bounds(1 << 20, 10), wanted=kept_back(("*.csv",)))
    done = carry_out(folder, FolderPlace("results:one", target), load, lambda: True)
    assert {file.path for file in done.files} >= {"output/a.csv", "output/deep/b.csv"}
    assert [str(entry) for entry in done.ignored] == [
        "input-copy.parquet: its name is none of: *.csv"
    ]
    assert not (target / "output/input-copy.parquet").exists()
