"""Makes the helper module beside these tests importable, by them and by worker processes."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
