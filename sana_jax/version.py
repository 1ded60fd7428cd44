"""The version, in the package's metadata and in the pictures it writes."""

__version__ = '0.1.0'
