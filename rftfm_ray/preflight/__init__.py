"""Checks before step 0: the reward, the rows, the model's files, room, and what the actors answer. Judged by value."""
