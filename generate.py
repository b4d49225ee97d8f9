"""Draw pictures of prompts from a checkpoint: a labelled grid, and every picture as its own PNG.

python generate.py --checkpoint runs/mine --prompts "a red heart" "a blue cat" --pictures 9 \
    --out grid.png
"""

import runtime

runtime.prepare()

import dataclasses
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from config import run
from data.grids import picture_grid, save_png
from data.text import clean
from drawing import (
    BATCH_SIZE,
    Checkpoint,
    SamplingFlags,
    make_drawer,
    open_checkpoint,
    picture_seed,
)
from model import transformer
from model.config import SamplingConfig
from training.config import ComputeDtype

ABOUT = "Draw pictures of prompts from a checkpoint: a labelled grid, and each picture by itself."
MAX_IN_GRID = 900
"""Pictures on one grid; all are written one by one in any case."""


@dataclass(frozen=True)
class GenerateConfig(SamplingFlags):
    """What is drawn, with which model, and where it goes."""

    checkpoint: str
    """RUN, RUN/checkpoints/STEP, or a release folder (config.json and model.safetensors)."""
    prompts: tuple[str, ...] = field(
        default=(),
        metadata={"nargs": "*", "help": 'One or more prompts; "" draws without a prompt.'},
    )
    """Prompts, one word of the command line each."""
    prompts_file: str | None = None
    """File with a prompt a line, after those of --prompts; "-" reads standard input."""
    pictures: int = 1
    """Pictures of each prompt."""
    out: str = "pictures.png"
    """The grid's file, with a folder of the same name without .png beside it for the pictures; or a
    folder, which gets grid.png and the pictures."""
    seed: int = 0
    """Another seed draws other pictures. Each depends on (seed, prompt, its number) alone."""
    compute_dtype: ComputeDtype = "float32"
    """Precision of activations and products; in half precision a picture may differ a little with
    batch_size and device."""
    batch_size: int = BATCH_SIZE
    """Pictures drawn at a time, always exactly so many; fewer need less memory."""

    def __post_init__(self) -> None:
        if self.pictures < 1 or self.batch_size < 1:
            raise ValueError(
                f"pictures {self.pictures} and batch_size {self.batch_size} must be at least 1"
            )


def main(config: GenerateConfig) -> None:
    """Draw, write each picture as it comes, then the grid."""
    prompts = [*config.prompts, *read_prompts(config.prompts_file)]
    if not prompts:
        raise ValueError('no prompts: pass --prompts "a red heart" or --prompts_file FILE')
    grid_path, folder = output_paths(config.out)
    checkpoint = open_checkpoint(config.checkpoint)
    sampling = config.over(checkpoint.sampling)
    model = transformer.build(checkpoint.model, config.compute_dtype)
    drawer = make_drawer(model, sampling, checkpoint.folder, config.batch_size)
    if cut := drawer.num_cut(prompts):
        print(
            f"warning: {cut} of {len(prompts)} prompts are longer than the model's "
            f"{checkpoint.model.text_length} text tokens and were cut",
            file=sys.stderr,
        )
    jobs = [Job(p, i, k) for i, p in enumerate(prompts) for k in range(config.pictures)]
    drawn = drawer.draw_batches(
        checkpoint.params,
        [job.prompt for job in jobs],
        [picture_seed(config.seed, job.prompt, job.number) for job in jobs],
    )
    settings = describe(checkpoint, sampling, config)
    make_room(grid_path, folder)
    on_grid = save_pictures(jobs, drawn, folder, config.seed, settings)
    write_grid(grid_path, prompts, config, on_grid, settings)
    print(
        f"{grid_path}: {len(prompts)} prompt(s) × {config.pictures} picture(s), each also in "
        f"{folder}/"
    )


@dataclass(frozen=True)
class Job:
    """One picture to draw."""

    prompt: str
    prompt_index: int
    number: int

    @property
    def file_name(self) -> str:
        """Such as 000-a-red-heart-3.png; nothing of a prompt can name another folder."""
        letters = "".join(c if c.isascii() and c.isalnum() else " " for c in clean(self.prompt))
        words = "-".join(letters.lower().split())[:40].strip("-") or "prompt"
        return f"{self.prompt_index:03d}-{words}-{self.number}.png"


def read_prompts(path: str | None) -> list[str]:
    """The lines of a file, or of standard input for "-". Empty lines at the end do not count;
    others are the empty prompt."""
    if path is None:
        return []
    data = _read_standard_input() if path == "-" else _read_file(Path(path))
    if b"\0" in data:
        raise ValueError(f"prompts_file {path} is no UTF-8 text: it has NUL bytes")
    lines = data.decode("utf-8-sig", "replace").split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def _read_standard_input() -> bytes:
    if sys.stdin is None:
        raise ValueError("prompts_file - reads standard input, but that is closed; name a file")
    return sys.stdin.buffer.read()


def _read_file(path: Path) -> bytes:
    if not path.exists() or path.is_dir():  # pipes such as /dev/fd/3 are fine
        raise ValueError(f"no prompts_file at {path}")
    return path.read_bytes()


def output_paths(out: str) -> tuple[Path, Path]:
    """Where the grid goes, and the folder of the single pictures."""
    path = Path(out)
    if path.suffix.lower() != ".png" or path.is_dir():
        if path.is_file():
            raise ValueError(f"out {path} is a file; name a .png file or a folder")
        return path / "grid.png", path
    return path, path.with_suffix("")


def make_room(grid_path: Path, folder: Path) -> None:
    """Make the folders and see that files can be written, before hours of drawing."""
    if grid_path.is_dir():
        raise ValueError(f"out {grid_path} is a folder, but the grid is to be a file of that name")
    for path in (grid_path.parent, folder):
        try:
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path):
                pass
        except OSError as error:
            raise ValueError(f"cannot write to {path} ({error}); name another --out") from None
    if grid_path.exists() and not os.access(grid_path, os.W_OK):
        raise ValueError(f"cannot write to {grid_path}; name another --out")


def describe(
    checkpoint: Checkpoint, sampling: SamplingConfig, config: GenerateConfig
) -> dict[str, str | int | float | None]:
    """What besides prompt and seed a picture is a function of."""
    return {
        "checkpoint": config.checkpoint,
        "step": checkpoint.step,
        **dataclasses.asdict(sampling),
        "compute_dtype": config.compute_dtype,
        "batch_size": config.batch_size,
    }


def save_pictures(
    jobs: list[Job],
    drawn: Iterator[np.ndarray],
    folder: Path,
    seed: int,
    settings: dict[str, str | int | float | None],
) -> list[np.ndarray]:
    """Write each picture as soon as it is drawn; return those that the grid has room for."""
    kept: list[np.ndarray] = []
    pictures = (picture for batch in drawn for picture in batch)
    with tqdm(total=len(jobs), desc="drawing", unit=" pictures", disable=None) as bar:
        for job, picture in zip(jobs, pictures, strict=True):
            about = {"prompt": clean(job.prompt), "seed": seed, "picture": job.number}
            save_png(folder / job.file_name, picture, {**about, "settings": settings})
            if len(kept) < MAX_IN_GRID:
                kept.append(picture)
            bar.update()
    return kept


def write_grid(
    path: Path,
    prompts: list[str],
    config: GenerateConfig,
    pictures: list[np.ndarray],
    settings: dict[str, str | int | float | None],
) -> None:
    """The pictures of the first prompts, as many as there is room for."""
    per_prompt = min(config.pictures, len(pictures))
    count = len(pictures) // per_prompt
    if count < len(prompts):
        print(f"the grid shows the first {count} of {len(prompts)} prompts", file=sys.stderr)
    blocks = np.stack(pictures[: count * per_prompt]).reshape(count, per_prompt, *pictures[0].shape)
    about = {
        "prompts": [clean(prompt) for prompt in prompts[:count]],
        "seed": config.seed,
        "settings": settings,
    }
    save_png(path, picture_grid(prompts[:count], blocks), about)


if __name__ == "__main__":
    run(main, GenerateConfig, prog="generate.py", about=ABOUT)
