"""Learning: advantages, losses, the commit gate, DeepSpeed, snapshots and checkpoints."""
