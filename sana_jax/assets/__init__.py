"""Models that are shipped with the package, in the diffusers layout."""
