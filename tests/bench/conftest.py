"""Scripts under bench/ import their helpers as a script's neighbours do."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
