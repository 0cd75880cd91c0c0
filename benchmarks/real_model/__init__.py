"""A model that people know on tasks that people know: what it can do untrained, and how it learns under the guard."""
