"""A finished run at work for its users."""
