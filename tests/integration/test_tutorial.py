"""The tutorial's notebook from its first cell to its picture."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(ROOT / "docs/tutorial.ipynb", as_version=4)
    NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "uniform: 40 steps" in said and "finds the decisive tokens" in said
    assert "60 steps" in said and "B - A" in said
    assert (tmp_path / "outputs/tutorial.png").stat().st_size > 10_000
    assert (tmp_path / "outputs/fidelity/uniform/countdown/fidelity.html").is_file()
