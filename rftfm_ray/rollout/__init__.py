"""Generation: vLLM in process, episodes with tools, weights on their way in."""
