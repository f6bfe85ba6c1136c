"""`rosepo serve`: the recommender of a run behind HTTP."""
