"""The reference of a run: profiles of healthy runs, shipped priors, and the self-baseline. Pure."""
