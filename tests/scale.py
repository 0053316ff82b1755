"""How long is long."""

import os

# REPLAYBANK_LONG=1 turns tests marked `slow`, and all property tests, into their long form.
LONG = os.environ.get("REPLAYBANK_LONG", "") not in ("", "0")
