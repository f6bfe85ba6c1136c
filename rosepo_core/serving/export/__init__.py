"""Exports of a run: a model with all that recommending needs, its golden prompts, and the way to the hub."""
