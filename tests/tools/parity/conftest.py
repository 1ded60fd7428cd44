"""Lets tests import the modules beside them by name: tests are no package."""

import pathlib
import sys

sys.path.append(str(pathlib.Path(__file__).parent))
