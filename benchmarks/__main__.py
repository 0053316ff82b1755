"""`python -m benchmarks`, from the repository's root: see `suite.py`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from suite import main

main()
