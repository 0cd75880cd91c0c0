"""The remediation benchmark: whether the guard makes runs with a fault better, and none worse."""
