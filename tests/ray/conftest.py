"""What the tests of `replaybank.ray` share."""

from __future__ import annotations

import pytest

pytest.importorskip("ray", reason="needs Ray")
