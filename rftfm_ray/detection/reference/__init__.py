"""What is usual: profiles of healthy runs, shipped priors, and the run's own past. Pure."""
