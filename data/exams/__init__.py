"""Held-out prompts, and the comparison of drawn pictures with real ones."""
