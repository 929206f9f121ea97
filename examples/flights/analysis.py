"""How late do the carriers that leave New York City arrive?

Follows the contract of blind analyses: `-i` a folder of inputs, `-o` a folder for results, `-t` one
for temporary files.
"""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd


def delays_by_carrier(flights: pd.DataFrame) -> pd.DataFrame:
    """Flights, mean and 90th percentile of the arrival delay in minutes, share over 15 minutes."""
    arrived = flights.dropna(subset=["arr_delay"])
    by_carrier = arrived.groupby("carrier")["arr_delay"]
    return pd.DataFrame(
        {
            "flights": by_carrier.size(),
            "mean_delay": by_carrier.mean().round(2),
            "p90_delay": by_carrier.quantile(0.9).round(2),
            "late_share": by_carrier.apply(lambda delay: (delay > 15).mean()).round(4),
        }
    ).sort_values("mean_delay", ascending=False)


def plot(delays: pd.DataFrame, path: Path) -> None:
    """Draw the mean delay of each carrier."""
    axes = delays["mean_delay"].plot.bar(figsize=(8, 4), color="steelblue")
    axes.set_title("Mean arrival delay by carrier, flights from New York City in 2013")
    axes.set_xlabel("carrier")
    axes.set_ylabel("minutes")
    axes.figure.tight_layout()
    axes.figure.savefig(path, dpi=120)
    plt.close(axes.figure)


def main() -> None:
    """Read flights.csv, write delays.csv and delays.png."""
    parser = argparse.ArgumentParser()
    for name in ("input", "output", "temporary"):
        parser.add_argument(f"-{name[0]}", f"--{name}", type=Path, required=True)
    folders = parser.parse_args()
    flights = pd.read_csv(folders.input / "flights.csv")
    delays = delays_by_carrier(flights)
    delays.to_csv(folders.output / "delays.csv")
    plot(delays, folders.output / "delays.png")
    print(f"{len(flights)} flights, {len(delays)} carriers")


if __name__ == "__main__":
    main()
