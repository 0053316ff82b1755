"""What is in a buffer: `replaybank inspect PATH`, and `ReplayBuffer.plot()`.

`inspect` computes (NumPy only), `terminal` and `page` show, `command` opens a checkpoint and decides between them.
"""

from replaybank.inspection.overview import inspect
from replaybank.inspection.report import Inspection

__all__ = ["Inspection", "inspect"]
