"""The OpenAI-compatible server: ``python -m serving``."""
