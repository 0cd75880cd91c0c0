"""Teaching a model of diagnoses from runs with injected faults."""
