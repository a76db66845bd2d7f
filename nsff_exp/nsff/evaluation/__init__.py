"""Held-out views scored by the rules of a protocol, and figures of a scene's health and cost."""
