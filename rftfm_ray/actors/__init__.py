"""Ray actors: thin shells over training, rollout and judgement."""

if __name__ != "rftfm_ray.actors":
    # The link at the top of the repository is for readers. Under a second name every class would exist twice.
    raise ImportError("import rftfm_ray.actors, not actors")
