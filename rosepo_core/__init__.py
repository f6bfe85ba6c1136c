"""rosepo: the alignment toolkit for LLM recommenders."""

__version__ = "0.1.0"
