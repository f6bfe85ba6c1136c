"""The stages of a run, one file each, in the order of `rosepo_core.pipeline`."""

STAGES = ("dataset", "split", "sft", "oracle", "sampling", "reference", "preferences", "aligned", "evaluation")
"""The names of the stages, in their order."""
