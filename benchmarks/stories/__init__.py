"""Stories: what went wrong in other people's training, told by this trainer, in real actors."""
