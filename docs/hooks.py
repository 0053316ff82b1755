"""What the site takes from the rest of the repository: a hook of mkdocs.

The pages under docs/ link to studies, the lesson, examples and sources where they lie in the repository, so that the
links work there, too. Here each of these becomes a page (or a file) of the site, and the links go to it.
"""

from __future__ import annotations

import base64
import json
import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
LESSON = "notebooks/experience_replay.ipynb"
# Pages that lie elsewhere: where in the repository, where in the site.
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "index.md",
    "studies/README.md": "lab/results.md",
    LESSON: "lab/lesson.md",
} | {
    path.relative_to(ROOT).as_posix(): f"lab/{path.parent.name}.md" for path in sorted(ROOT.glob("studies/*/README.md"))
}
SOURCES = {".py": "python", ".hpp": "cpp", ".cpp": "cpp", ".toml": "toml", ".txt": "text"}
FENCE = re.compile(r"^(?P<fence>```+|~~~+).*?^(?P=fence)[ \t]*$", re.M | re.S)
LINK = re.compile(r"(?<=\]\()(?P<path>[^)\s#:]+)(?P<anchor>#[^)\s]*)?(?=\))")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that lie elsewhere, and what any page links to outside of docs/."""
    for path, uri in PAGES.items():
        if path != "README.md":  # the site has its own front page
            content = _lesson(files, config) if path == LESSON else (ROOT / path).read_text(encoding="utf-8")
            files.append(File.generated(config, uri, content=content))
    for file in list(files.documentation_pages()):
        for target in _targets(file.content_string, _home(file.src_uri)):
            uri = _uri(target)
            if target.is_relative_to(ROOT / "docs") or not target.is_file() or files.get_file_from_path(uri):
                continue
            if target.suffix in SOURCES:
                files.append(File.generated(config, uri, content=_source_page(target)))
            else:
                files.append(File.generated(config, uri, abs_src_path=str(target)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turns the repository's links into the site's."""
    if page.parent is None:  # a tab of one page: nothing beside it to go to
        page.meta.setdefault("hide", ["navigation"])
    home, here = _home(page.file.src_uri), posixpath.dirname(page.file.src_uri)

    def relink(match: re.Match[str]) -> str:
        target = (home / match["path"]).resolve()
        if not (target.is_file() and target.is_relative_to(ROOT)):
            return match[0]  # as it is: the strict build tells
        return posixpath.relpath(_uri(target), here or ".") + (match["anchor"] or "")

    return _outside_of_code(markdown, lambda text: LINK.sub(relink, text))


def _targets(markdown: str, home: Path) -> Iterator[Path]:
    """The files of the repository that a page links to."""
    for match in LINK.finditer(FENCE.sub("", markdown)):
        yield (home / match["path"]).resolve()


def _home(uri: str) -> Path:
    """The folder in the repository of a page of the site: its links are relative to that."""
    elsewhere = {site: path for path, site in PAGES.items() if path != "README.md"}
    return (ROOT / elsewhere.get(uri, f"docs/{uri}")).parent


def _uri(target: Path) -> str:
    """Where in the site a file of the repository is."""
    path = target.relative_to(ROOT).as_posix()
    if path in PAGES:
        return PAGES[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"source/{path}.md" if target.suffix in SOURCES else f"source/{path}"


def _outside_of_code(markdown: str, change: Callable[[str], str]) -> str:
    """Changes what is not in a fenced block."""
    parts, end = [], 0
    for fence in FENCE.finditer(markdown):
        parts += [change(markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, change(markdown[end:])])


def _source_page(target: Path) -> str:
    """A file of the repository as a page; the search leaves it out."""
    path = target.relative_to(ROOT).as_posix()
    code = target.read_text(encoding="utf-8").rstrip("\n")
    return f"---\nsearch:\n  exclude: true\n---\n\n# {path}\n\n````{SOURCES[target.suffix]}\n{code}\n````\n"


def _lesson(files: Files, config: Any) -> str:
    """The notebook as a page: its text, its code, and what came out; its pictures become files."""
    parts, pictures = [], 0
    for cell in json.loads((ROOT / LESSON).read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            if "image/png" in (data := output.get("data", {})):
                pictures += 1
                picture = base64.b64decode("".join(data["image/png"]))
                files.append(File.generated(config, f"lab/lesson/{pictures}.png", content=picture))
                parts.append(f"![What the cell above draws](lesson/{pictures}.png)")
            elif text := "".join(output.get("text", data.get("text/plain", ""))).rstrip():
                parts.append(f"```text\n{text}\n```")
    files.append(File.generated(config, f"source/{LESSON}", abs_src_path=str(ROOT / LESSON)))
    title, *rest = parts[0].split("\n")
    parts[0] = "\n".join([title, "", f"This is [the notebook](../source/{LESSON}), as it was executed.", *rest])
    return "\n\n".join(parts) + "\n"
