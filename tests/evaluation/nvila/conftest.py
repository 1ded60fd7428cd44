"""Lets tests import neighbouring modules by name."""

import pathlib
import sys

sys.path.append(str(pathlib.Path(__file__).parent))
