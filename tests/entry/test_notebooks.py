"""notebooks/*.ipynb define no functions, have outputs, and run."""

import ast
import contextlib
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell
from PIL import Image

from drawing import choosing
from tests.entry.conftest import MODEL
from tests.png_texts import read_png_about

ADDRESS = r"github(?:\.com)?/([\w-]+)/pastel"
SMALL = ("--training.batch_size=8", "--training.eval_every=0")
SAME_MODEL = [
    f"--model.{name}={getattr(MODEL, name)}"
    for name in ("dim", "encoder_depth", "decoder_depth", "num_heads", "mlp_dim", "grid_size")
]
ROOT = Path(__file__).parent.parent.parent
FILES = sorted((ROOT / "notebooks").glob("*.ipynb"))
of_each_notebook = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def read(path: Path) -> nbformat.NotebookNode:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def with_parameters(notebook: nbformat.NotebookNode, **values: object) -> nbformat.NotebookNode:
    """The notebook with other settings, in a cell after the one tagged "parameters", as papermill
    does it."""
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
    """The name of a Jupyter kernel that runs this interpreter. Jupyter's files are all in
    tmp_path."""
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
    assert [o for o in outputs if {"image/png", "image/svg+xml"} & set(o.get("data", {}))]
    assert not [o for o in outputs if "/work" in o.get("text", "") or "/home" in o.get("text", "")]


def execute(notebook: nbformat.NotebookNode, kernel: str) -> tuple[list[str], str]:
    """Run the notebook in its own folder, as Jupyter does. Returns its pictures (base64 PNG and
    SVG) and its printed text."""
    folder = {"metadata": {"path": str(ROOT / "notebooks")}}
    NotebookClient(notebook, timeout=600, kernel_name=kernel, resources=folder).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    data = [o.get("data", {}) for o in outputs]
    shown = [one.get("image/png", one.get("image/svg+xml")) for one in data]
    printed = "".join(o.text for o in outputs if o.output_type == "stream" and o.name == "stdout")
    return [picture for picture in shown if picture], printed


def run_cells(
    notebook: nbformat.NotebookNode, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[bytes], str]:
    """Run its cells in this process, with the compiled programs of other tests. As in Jupyter, they
    run in the notebook's folder, and the last expression of a cell is shown. Return the pictures,
    PNG or SVG, and what was printed."""
    monkeypatch.chdir(ROOT / "notebooks")
    monkeypatch.setattr(sys, "path", list(sys.path))
    names: dict[str, object] = {"__name__": "__main__"}
    shown: list[bytes] = []
    printed = io.StringIO()
    for cell in (one for one in notebook.cells if one.cell_type == "code"):
        body = ast.parse(cell.source).body
        last = body[-1]
        done = ast.Module(body[:-1] if isinstance(last, ast.Expr) else body, [])
        with contextlib.redirect_stdout(printed):
            exec(compile(done, "cell", "exec"), names)
            value = None
            if isinstance(last, ast.Expr):
                value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
        for kind in ("_repr_png_", "_repr_svg_"):
            if show := getattr(value, kind, None):
                picture = show()
                shown.append(picture if isinstance(picture, bytes) else picture.encode())
    return shown, printed.getvalue()


def set_up(path: Path) -> str:
    """The cell that finds or fetches the code."""
    found = [c.source for c in read(path).cells if c.cell_type == "code" and "git" in c.source]
    assert len(found) == 1
    return found[0]


def test_all_notebooks_name_one_repository_and_are_set_up_alike() -> None:
    assert len({set_up(path) for path in FILES}) == 1
    named = {one for path in FILES for one in re.findall(ADDRESS, path.read_text())}
    assert len(named) == 1
    for path in FILES:
        badge = read(path).cells[0].source.splitlines()[0]
        assert badge.endswith(
            f"/github/{named.copy().pop()}/pastel/blob/main/notebooks/{path.name})"
        )


def test_a_fork_puts_its_name_into_all_of_them_by_one_command(tmp_path: Path) -> None:
    (tmp_path / "notebooks").mkdir()
    for path in FILES:
        shutil.copy(path, tmp_path / "notebooks")
    command = ["make", "-f", str(ROOT / "Makefile"), "badges", "OWNER=some-one"]
    subprocess.run(command, cwd=tmp_path, check=True)
    for path in FILES:
        text = (tmp_path / "notebooks" / path.name).read_text()
        assert set(re.findall(ADDRESS, text)) == {"some-one"}
        nbformat.validate(nbformat.reads(text, 4))
    refused = subprocess.run(command[:-1], cwd=tmp_path, check=False, capture_output=True)
    assert b"make badges OWNER=" in refused.stderr


def test_own_pictures_go_from_a_folder_to_a_drawing(
    run_folder: Path, records_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = with_parameters(
        read(ROOT / "notebooks" / "own_pictures.ipynb"),
        source=str(records_folder.parent / "pictures"),
        captions="beside",
        passes=1.0,
        start=str(run_folder),
        prompts=["tan bar 3"],
        records=str(tmp_path / "records"),
        run=str(tmp_path / "run"),
        flags=[*SMALL, *SAME_MODEL, "--grids.every=0", "--training.least_steps=0"],
    )
    monkeypatch.setattr(choosing, "PAIRS", choosing.PAIRS[:2])  # each compiles a program
    shown, printed = run_cells(notebook, monkeypatch)
    assert len(shown) == 3, "pictures, losses, drawings"
    assert "40 pictures" in printed
    assert (tmp_path / "run" / "sampling.yaml").is_file()


# own_pictures, above, calls the same functions.
@pytest.mark.slow
def test_the_quickstart_draws(
    records_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = with_parameters(
        read(ROOT / "notebooks" / "quickstart.ipynb"),
        source=str(records_folder.parent / "pictures"),
        steps=2,
        prompts=["tan bar 3"],
        records=str(tmp_path / "records"),
        run=str(tmp_path / "run"),
        flags=[*SMALL, "--model.dim=16", "--model.decoder_depth=1", "--grids.every=0"],
    )
    shown, printed = run_cells(notebook, monkeypatch)
    assert len(shown) == 3, "pictures, losses, drawings"
    assert "step 2 of 2" in printed or (tmp_path / "run" / "checkpoints" / "2").is_dir()


def test_the_analysis_shows_a_sweep(tmp_path: Path, kernel: str) -> None:
    for number, rate in enumerate((0.001, 0.002, 0.004)):
        run = tmp_path / f"{number}"
        run.mkdir()
        (run / "config.yaml").write_text(f"seed: 0\noptim:\n  learning_rate: {rate}\n")
        rows = [
            {
                "step": k,
                "hours": 0.1,
                "examples": 8 * k,
                "train/loss": 5.0 - k,
                "eval/tone/loss": 4.0 - number,
            }
            for k in (1, 2)
        ]
        (run / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    notebook = with_parameters(
        read(ROOT / "notebooks" / "sweep_analysis.ipynb"), runs=[str(tmp_path)]
    )
    shown, printed = execute(notebook, kernel)
    assert len(shown) == 4, "two curves, the valley, parallel coordinates"
    assert "100%  optim.learning_rate" in printed


def test_inference_draws_from_a_run(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    shown, printed = run_cells(notebook, monkeypatch)
    assert len(shown) == 6, "one of each part that draws"
    assert "draws the first picture from above again: True" in printed
    with Image.open(out) as saved, Image.open(io.BytesIO(shown[0])) as seen:
        assert saved.tobytes() == seen.tobytes()
    about = read_png_about(out)
    assert json.loads(about["prompts"]) == prompts
    assert json.loads(about["settings"])["temperature"] == 1.0
