"""Statistics without names of signals: sums of evidence, filters, change points, thresholds. Pure; numpy."""
