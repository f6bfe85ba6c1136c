"""Prompts and responses as token ids."""
