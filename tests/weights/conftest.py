"""Makes test modules importable by name, since tests are not a package."""

import pathlib
import sys

sys.path.append(str(pathlib.Path(__file__).parent))
