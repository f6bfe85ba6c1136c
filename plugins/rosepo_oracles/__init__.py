"""First-party oracles."""
