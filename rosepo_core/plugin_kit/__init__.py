"""Help for authors of plugins: a new distribution, and a check of what is installed."""
