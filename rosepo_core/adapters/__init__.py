"""rosepo inside other recommendation toolkits. Each module touches one of them, which must be installed."""
