"""Records of a run: its directory, rows, trajectories, events and live metrics."""
