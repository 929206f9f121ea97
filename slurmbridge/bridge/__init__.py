"""The verbs. `desk` serves the API and touches the database only; the others are a Runner's."""
