"""Scores of images: quality and prompt following."""
