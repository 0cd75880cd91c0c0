"""What may be moved in a run, and by whom. Pure: imports neither ray nor torch."""

if __name__ != "rftfm_ray.policies":
    # The link at the top of the repository is for readers. Under a second name every class would exist twice.
    raise ImportError("import rftfm_ray.policies, not policies")
