"""What a run shows to people: the page, its charts, the model card."""
