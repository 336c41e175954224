"""The notebook among the examples, run from top to bottom in a kernel of its own, and what its cells show."""

import csv
import io
import re
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

NOTEBOOK = Path(__file__).resolve().parents[2] / "examples" / "notebook.ipynb"


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.outputs for cell in notebook.cells if cell.cell_type == "code"), "kept without outputs"
    NotebookClient(
        notebook, timeout=240, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    return folder, [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cells, kind):
    """What the cells show of a kind of content."""
    return [output.data[kind] for cell in cells for output in cell.outputs if kind in output.get("data", {})]


def rows(folder):
    with open(folder / "digits.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_the_record_is_a_sentence_and_a_picture_of_its_numbers(ran):
    folder, cells = ran
    (view,) = [html for html in shown(cells, "text/html") if "<svg" in html]
    verdicts = [row["verdict"] for row in rows(folder)]
    certified, broken = (
        verdicts.count("certified") / 40,
        1 - (verdicts.count("broken") + verdicts.count("misclassified")) / 40,
    )
    words = re.sub("<style>.*?</style>|<[^>]+>", " ", view).replace("\xa0", " ")
    assert f"between {certified:.1%} and {broken:.1%} of 40 images withstand it" in words.replace(" %", "%")
    svg = ElementTree.fromstring(view[view.index("<svg") : view.index("</svg>") + 6])
    assert f"{verdicts.count('certified')} certified" in svg.findtext("desc")
    assert not re.search(r"https?://(?!www\.w3\.org)|<script|src=", view)
    used = set(re.findall(r"var\((--[\w-]+)\)", view))
    assert used <= set(re.findall(r"(--[\w-]+):", view))


def test_the_table_the_files_and_the_pictures_agree(ran):
    folder, cells = ran
    (table,) = [html for html in shown(cells, "text/html") if "<table" in html]
    assert "certified_radius" in table
    with np.load(folder / "digits.npz") as held:
        assert held["rows"].tolist() == [int(row["row"]) for row in rows(folder)]
        assert held["verdicts"][0].tolist() == [row["verdict"] for row in rows(folder)]
    (picture,) = shown(cells, "image/png")
    import base64

    image = Image.open(io.BytesIO(base64.b64decode(picture)))
    assert image.size[0] > 3 * 128
    texts = shown(cells, "text/plain")
    assert any(text.startswith("AttackResult: the goal is reached on ") for text in texts)
    assert max(len(text.splitlines()) for text in texts if text.startswith(("AuditRecord", "AttackResult"))) <= 5
