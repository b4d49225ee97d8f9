"""notebooks/*.ipynb: they call functions and define none, come with outputs, and run."""

import ast
import base64
import io
import json
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell
from PIL import Image

from tests.png_texts import read_png_about

ROOT = Path(__file__).parent.parent.parent
FILES = sorted((ROOT / "notebooks").glob("*.ipynb"))
of_each_notebook = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def read(path: Path) -> nbformat.NotebookNode:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def with_parameters(notebook: nbformat.NotebookNode, **values: object) -> nbformat.NotebookNode:
    """Other settings, set in a cell after the one tagged "parameters", as papermill does."""
    tagged = [
        i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])
    ]
    assert len(tagged) == 1
    defaults = {
        ast.unparse(node.targets[0])
        for node in ast.parse(notebook.cells[tagged[0]].source).body
        if isinstance(node, ast.Assign)
    }
    assert values.keys() <= defaults
    source = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    notebook.cells.insert(tagged[0] + 1, new_code_cell(source))
    return notebook


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """This interpreter as a Jupyter kernel; nothing of Jupyter's is read or written elsewhere."""
    folder = tmp_path / "jupyter" / "kernels" / "this-python"
    folder.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    about = {"argv": argv, "display_name": "this Python", "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(about))
    for name in ("JUPYTER_PATH", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    return "this-python"


@of_each_notebook
def test_a_notebook_defines_nothing_and_shows_what_it_draws(path: Path) -> None:
    for cell in read(path).cells:
        if cell.cell_type == "code":
            assert not [one for one in cell.outputs if one.output_type == "error"]
            definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
            for node in ast.walk(ast.parse(cell.source)):
                assert not isinstance(node, definitions), ast.unparse(node)


@of_each_notebook
def test_its_outputs_are_there_and_name_no_folder_of_ours(path: Path) -> None:
    outputs = [o for cell in read(path).cells for o in cell.get("outputs", [])]
    assert [o for o in outputs if "image/png" in o.get("data", {})]
    assert not [o for o in outputs if "/work" in o.get("text", "") or "/home" in o.get("text", "")]


def test_inference_draws_from_a_run(run_folder: Path, tmp_path: Path, kernel: str) -> None:
    out = tmp_path / "drawn.png"
    prompts = ["tan bar 3", "", "a “quoted” prompt"]
    notebook = with_parameters(
        read(ROOT / "notebooks" / "inference.ipynb"),
        checkpoint=str(run_folder),
        prompts=prompts,
        pictures=2,
        temperature=1.0,
        scales=[1.0, 3.0],
        temperatures=[1.0],
        negative="dark bar 1",
        out=str(out),
    )
    folder = {"metadata": {"path": str(ROOT / "notebooks")}}  # where Jupyter starts it
    NotebookClient(notebook, timeout=120, kernel_name=kernel, resources=folder).execute()

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = [o.data["image/png"] for o in outputs if "image/png" in o.get("data", {})]
    assert len(shown) == 6, "one of each part that draws"
    printed = "".join(o.text for o in outputs if o.output_type == "stream" and o.name == "stdout")
    assert "draws the first picture from above again: True" in printed
    with Image.open(out) as saved, Image.open(io.BytesIO(base64.b64decode(shown[0]))) as seen:
        assert saved.tobytes() == seen.tobytes()
    about = read_png_about(out)
    assert json.loads(about["prompts"]) == prompts
    assert json.loads(about["settings"])["temperature"] == 1.0
