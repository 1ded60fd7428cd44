"""Launching, supervision and restarts of runs of several processes."""
