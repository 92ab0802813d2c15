"""Write docs/tutorial.ipynb from docs/tutorial.md: text becomes text, commands and Python become cells.

python scripts/write_notebook.py docs/tutorial.md docs/tutorial.ipynb
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

BLOCK = re.compile(r"```(bash|python)\n(.*?)```\n", re.S)


def notebook(text: str) -> nbformat.NotebookNode:
    """The notebook of a page; its cells are numbered, so that it is the same on every run."""
    cells, place = [], 0
    for block in BLOCK.finditer(text):
        cells.append(new_markdown_cell(text[place : block.start()].strip()))
        code = block[2].strip()
        cells.append(new_code_cell(f"%%bash\nset -e\n{code}" if block[1] == "bash" else code))
        place = block.end()
    cells.append(new_markdown_cell(text[place:].strip()))
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    return new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit("write_notebook.py takes the page and the notebook: docs/tutorial.md docs/tutorial.ipynb")
    page, output = map(Path, sys.argv[1:])
    output.write_text(nbformat.writes(notebook(page.read_text(encoding="utf-8"))) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
