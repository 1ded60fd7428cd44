"""Runs of several processes: what they need, and when they start again."""
