"""anywidth and other tools at the same processor time, on the same data."""
