"""Groups a table of a million rows with pandas."""

import numpy as np
import pandas as pd

numbers = np.arange(1_000_000)
frame = pd.DataFrame({"key": numbers % 1000, "value": numbers})
sums = frame.groupby("key")["value"].sum()
sums.to_csv("/output/sums.csv")
