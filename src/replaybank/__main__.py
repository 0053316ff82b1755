"""`python -m replaybank` is the command `replaybank`."""

import sys

from replaybank.cli import main

if __name__ == "__main__":
    sys.exit(main())
