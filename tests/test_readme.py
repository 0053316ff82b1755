"""The README's two commands are as tools read them. Its Python blocks run with all others, in test_docs.py."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("title", "command"),
    [
        ("Run it", "pip install -c constraints.txt '.[study]' && replaybank compare"),
        ("Test it", "pip install -c constraints.txt -e '.[test]' && pytest"),
    ],
)
def test_command_stands_alone_in_its_section(title: str, command: str) -> None:
    section = re.search(rf"^## {title}\n(.*?)(?=^## )", README, re.M | re.S)
    assert section
    assert section[1].strip() == f"```bash\n{command}\n```"
