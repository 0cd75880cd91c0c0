"""What is scored: the guard, baselines, peers and an oracle."""
