"""Prompts, their tokens and their embeddings."""
