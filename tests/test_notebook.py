"""The lesson runs from a clean kernel, says what it claims, and is committed with what it printed."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest

LESSON = Path(__file__).parent.parent / "notebooks" / "experience_replay.ipynb"
SHORT = "STEPS, SEEDS, TRIALS = 600, 1, 2_000"


def printed(notebook) -> str:
    """All that the cells printed, one after the other."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output["text"] for output in outputs if output["output_type"] == "stream")


def claims(text: str) -> None:
    """What the words around the cells say, held against what the cells printed."""
    settled = dict(re.findall(r"alpha (\d, beta [\d.]+) *: Q settles at ([\d.]+)", text))
    assert settled["1, beta 0"] == "2.50"
    assert settled["1, beta 1"] == settled["0, beta 0"] == "1.00"
    crammed, mixed = (
        float(x) for x in re.findall(r"error over the whole book at the end: (\S+) .*, (\S+) mixed", text)[0]
    )
    assert crammed > 3 * mixed
    neighbours = [
        float(x) for x in re.findall(r"neighbours in the stream: (\S+); neighbours in a batch: (\S+)", text)[0]
    ]
    assert neighbours[0] > 0.8 > 0.1 > abs(neighbours[1])
    # a time limit taken for an end: v = 1 + 0.9 * 0.9 v; else v = 1 + 0.9 v
    values = re.findall(r"(?:twenty lines|library): +([\d.]+)$", text, re.M)
    assert [float(x) for x in values] == [pytest.approx(1 / 0.19, abs=0.15), 10.0]
    assert "next_obs, twenty lines: [5.0, 5.0, 5.0, 5.0, 5.0]" in text
    assert "next_obs, library:      [1.0, 2.0, 3.0, 4.0, 5.0]" in text
    copied, held = (
        int(x.replace(",", "")) for x in re.findall(r"= 7056: (\S+) with copies, (\S+) in the library", text)[0]
    )
    assert copied > 2 * 7056 > 1.5 * held
    shares = [float(x) for x in re.findall(r"newcomer has ([\d.]+)% of all draws", text)]
    assert shares == [99.0, 1.0]  # of 99 transitions of 0.1, and one of 1000 or of 0.1
    assert "sampled the transition from 2, the priority went to the one from 3" in text
    assert "the indices [0, 0, " in text


def run(short: bool, folder: Path, monkeypatch: pytest.MonkeyPatch):
    """The notebook after a run by a kernel of this interpreter, in its own folder."""
    spec = {"argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"], "display_name": "lesson"}
    kernel = folder / "kernels" / "lesson"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(json.dumps({**spec, "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(folder))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(folder / "runtime"))
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
    notebook = nbformat.read(LESSON, as_version=4)
    if short:
        at = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
        notebook.cells.insert(at + 1, nbformat.v4.new_code_cell(SHORT))
    resources = {"metadata": {"path": str(LESSON.parent)}}
    client = nbclient.NotebookClient(notebook, kernel_name="lesson", timeout=240, resources=resources)
    asyncio.run(client.async_execute())
    return notebook


def test_the_lesson_runs_from_a_clean_kernel_and_what_it_says_comes_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = printed(run(True, tmp_path, monkeypatch))
    claims(text)
    assert "CartPole-v1, 20,000 steps: final return, mean over seeds" in text  # the committed result was found


@pytest.mark.slow
def test_in_its_full_length_replay_learns_more_than_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = printed(run(False, tmp_path, monkeypatch))
    claims(text)
    without, replayed = (
        [int(x) for x in found.split(",")] for found in re.findall(r"final return with.*?: +\[(.*?)\], \d+ s", text)
    )
    assert sum(replayed) > 2 * sum(without)


def test_it_is_committed_with_its_outputs_and_nobodys_paths() -> None:
    text = LESSON.read_text()
    assert len(text) < 1_500_000
    notebook = nbformat.read(LESSON, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 8
    assert not re.search(r"/(tmp|home|root|work|Users)/", text)
    assert "pip install" in code[0].source
    claims(printed(notebook))


def test_the_full_result_it_shows_is_the_committed_one() -> None:
    # after a new run of the study:
    # jupyter nbconvert --to notebook --execute --inplace notebooks/experience_replay.ipynb
    arms = json.loads((LESSON.parent.parent / "studies/compare/default/summary.json").read_text())["arms"]
    text = printed(nbformat.read(LESSON, as_version=4))
    for name, arm in arms.items():
        mean = arm["final_return"]["mean"]
        shown = f"{mean['estimate']:4.0f} [{mean['low']:.0f}, {mean['high']:.0f}]"
        assert re.search(rf"^ +{name} +{re.escape(shown.strip())} ", text, re.M)


def test_it_needs_no_file_beside_it() -> None:
    """On a notebook service it stands alone: there a link to another file of the repository is dead."""
    pages = [cell.source for cell in nbformat.read(LESSON, as_version=4).cells if cell.cell_type == "markdown"]
    links = [link for page in pages for link in re.findall(r"\]\((.*?)\)", page)]
    assert not [link for link in links if not link.startswith("https://")]


def test_every_question_has_an_answer_to_open() -> None:
    pages = [cell.source for cell in nbformat.read(LESSON, as_version=4).cells if cell.cell_type == "markdown"]
    questions = next(page for page in pages if "## Questions" in page)
    assert len(re.findall(r"^\*\*\d\.\*\*", questions, re.M)) == questions.count("<details>") == 5
    assert questions.count("</details>") == 5
