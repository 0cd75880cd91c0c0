"""How well a model of diagnoses names the faults of recorded runs."""
