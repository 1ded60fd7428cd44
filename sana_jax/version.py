"""Version of the package, also stored in the pictures it writes."""

__version__ = '0.1.0'
