"""Trains a random forest on two cores and leaves its accuracy."""

import json
from pathlib import Path

import numpy as np
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import cross_val_score

features, labels = make_classification(n_samples=2000, n_features=20, random_state=7)
forest = RandomForestClassifier(n_estimators=100, random_state=7)
# n_jobs=2: joblib starts processes, which share memory in /dev/shm.
scores = cross_val_score(forest, features, labels, cv=4, n_jobs=2)
Path("/output/accuracy.json").write_text(json.dumps({"accuracy": float(np.mean(scores))}))
