"""Does the picture show its prompt? Draw held-out prompts, look for them among real pictures.

python -m evaluate runs/mine
python -m evaluate runs/seed0 runs/seed1 runs/seed2 --pictures=8 --json
"""

import runtime

runtime.prepare()

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from config import run
from data.exam import Answers, Exam, Half, Selection, open_exam
from data.grids import picture_grid, save_png
from data.records import Records, open_records
from drawing import (
    BATCH_SIZE,
    Checkpoint,
    Drawer,
    make_drawer,
    open_checkpoint,
    override_sampling,
    picture_seed,
)
from model import transformer
from training.config import ComputeDtype

ABOUT = "Draw held-out prompts and say whether the pictures show them, beside chance and ceiling."
# Two-sided 95 % of Student's t by degrees of freedom; from ten on the normal's is near enough.
STUDENT_T = (math.nan, 12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)

OFFENSIVE = ("middle finger", "ok hand", "pinched fingers", "sign of the horns", "thumbs down")
"""Words of prompts that are left out of the grid."""
GRID_PICTURES = 30

Scores = dict[str, float]


@dataclass(frozen=True)
class EvaluateConfig:
    """Which checkpoints, on which prompts, drawn how."""

    checkpoints: tuple[str, ...] = field(
        metadata={
            "nargs": "+",
            "positional": True,
            "help": "RUN, RUN/checkpoints/STEP or a release folder; several are averaged.",
        }
    )
    """Runs of several training seeds give a mean and an interval over the seeds."""
    json: bool = False
    """Print one line of JSON instead of tables; scores are shares in 0..1."""
    half: Half = "report"
    """Which held-out prompts, by crc32 of the example's key: settings are chosen on the tune half
    and reported on the other."""
    pictures: int = 4
    """Pictures drawn of each prompt."""
    max_prompts: int = 64
    """Most prompts of each split; 0 = all of the half."""
    splits: tuple[str, ...] = field(
        default=(),
        metadata={"nargs": "*", "help": "Held-out splits, such as tone; default: all there are."},
    )
    """Held-out splits to draw."""
    records: str | None = None
    """Token records; default: those that the run was trained on. The real pictures are read again
    from where they came from."""
    max_gallery: int = 20_000
    """Most real pictures to be found among; of more, the prompts' own and an even choice."""
    grid: str | None = None
    """PNG file for a grid of drawn held-out prompts; default: none."""
    seed: int = 0
    """Another seed draws other pictures."""
    guidance_scale: float | None = None
    """1 = no guidance; default: the checkpoint's."""
    temperature: float | None = None
    """0 = greedy; default: the checkpoint's."""
    top_k: int | None = None
    """Draw only among so many tokens, 0 = all; default: the checkpoint's."""
    top_p: float | None = None
    """Draw only among the tokens that make up this probability; default: the checkpoint's."""
    compute_dtype: ComputeDtype = "float32"
    """Precision of activations and products."""
    batch_size: int = BATCH_SIZE
    """Pictures drawn at a time."""

    def __post_init__(self) -> None:
        for name, least in (("pictures", 1), ("batch_size", 1), ("max_prompts", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} {getattr(self, name)} must be at least {least}")


def main(config: EvaluateConfig) -> None:
    """Judge every checkpoint and print the table or the JSON."""
    checkpoints = [open_checkpoint(path) for path in config.checkpoints]
    records = open_common_records(checkpoints, config)
    drawers = open_drawers(checkpoints, config)
    exam = open_exam(
        records,
        drawers[0].image_size,
        Selection(config.splits, config.half, config.max_prompts, config.max_gallery),
    )
    results: list[dict[str, Answers]] = []
    for checkpoint, drawer in zip(checkpoints, drawers, strict=True):
        drawn = {split: draw(drawer, checkpoint, exam, split, config) for split in exam.targets}
        if config.grid and not results:
            write_grid(Path(config.grid), exam, drawn)
        results.append({split: exam.judge(split, pictures) for split, pictures in drawn.items()})
    report = make_report(exam, drawers[0], results, config)
    print(json.dumps(report) if config.json else as_text(report))


def open_common_records(checkpoints: Sequence[Checkpoint], config: EvaluateConfig) -> Records:
    """The records of all the runs. Raises ValueError when they are not the same."""
    folders = [config.records or checkpoint.records for checkpoint in checkpoints]
    for folder, checkpoint in zip(folders, checkpoints, strict=True):
        if folder is None:
            raise ValueError(f"{checkpoint.folder} does not know its data; name --records")
        if open_records(folder).digest != open_records(str(folders[0])).digest:
            raise ValueError(
                f"{checkpoint.folder} was trained on {folder}, {checkpoints[0].folder} on "
                f"{folders[0]}, which is other data; evaluate them apart, or name --records"
            )
    return open_records(str(folders[0]))


def open_drawers(checkpoints: Sequence[Checkpoint], config: EvaluateConfig) -> list[Drawer]:
    """A drawer for each checkpoint; those of equal settings share one compiled program."""
    drawers: dict[Any, Drawer] = {}
    for checkpoint in checkpoints:
        sampling = override_sampling(checkpoint.sampling, config)
        if (checkpoint.model, sampling) not in drawers:
            model = transformer.build(checkpoint.model, config.compute_dtype)
            drawer = make_drawer(model, sampling, checkpoint.folder, config.batch_size)
            drawers[checkpoint.model, sampling] = drawer
    return [drawers[c.model, override_sampling(c.sampling, config)] for c in checkpoints]


def draw(
    drawer: Drawer, checkpoint: Checkpoint, exam: Exam, split: str, config: EvaluateConfig
) -> np.ndarray:
    """Drawn pictures of a split's prompts: [prompt, picture, y, x, 3]."""
    jobs = [(prompt, k) for prompt in exam.prompts(split) for k in range(config.pictures)]
    seeds = [picture_seed(config.seed, prompt, k) for prompt, k in jobs]
    batches = drawer.draw_batches(checkpoint.params, [prompt for prompt, _ in jobs], seeds)
    with tqdm(total=len(jobs), desc=f"drawing {split}", unit=" pictures", disable=None) as bar:
        drawn = []
        for batch in batches:
            drawn.append(batch)
            bar.update(len(batch))
    pictures = np.concatenate(drawn)
    return pictures.reshape(-1, config.pictures, *pictures.shape[1:])


def write_grid(path: Path, exam: Exam, drawn: Mapping[str, np.ndarray]) -> None:
    """The first picture of each prompt of each split, as many as look well on a page."""
    prompts = [prompt for split in drawn for prompt in exam.prompts(split)]
    pictures = np.concatenate([pictures[:, :1] for pictures in drawn.values()])
    kind = [i for i, prompt in enumerate(prompts) if not any(w in prompt for w in OFFENSIVE)]
    kind = kind[:GRID_PICTURES]
    grid = picture_grid([prompts[i] for i in kind], pictures[kind])
    save_png(path, grid, {"prompts": [prompts[i] for i in kind]})
    print(f"{path}: {len(kind)} held-out prompts", file=sys.stderr)


def make_report(
    exam: Exam, drawer: Drawer, results: Sequence[Mapping[str, Answers]], config: EvaluateConfig
) -> dict[str, Any]:
    """Everything that is printed. `interval` is half the width of a 95 % interval: over the runs
    if there are several, else over the prompts."""
    report: dict[str, Any] = {
        "splits": {},
        "interval": {},
        "chance": {},
        "ceiling": {},
        "prompts": {split: len(rows) for split, rows in exam.rows.items()},
        "pictures": config.pictures,
        "half": config.half,
        "gallery": len(exam.gallery.features),
        "runs": {str(path): {} for path in config.checkpoints},
    }
    for split, rows in exam.rows.items():
        runs = [means(result[split]) for result in results]
        report["splits"][split] = means({q: [run[q] for run in runs] for q in runs[0]})
        report["interval"][split] = {
            q: half_width([run[q] for run in runs] if len(runs) > 1 else results[0][split][q])
            for q in runs[0]
        }
        for path, scores in zip(config.checkpoints, runs, strict=True):
            report["runs"][path][split] = scores
        repainted = drawer.paint_tokens(exam.records.image_tokens[rows].astype(np.int32))
        report["chance"][split] = means(exam.gallery.chance(exam.targets[split]))
        report["ceiling"][split] = means(exam.judge(split, repainted[:, None]))
    return report


def means(answers: Mapping[str, Any]) -> Scores:
    """Mean answer to each question that could be asked."""
    values = {name: np.asarray(answer, np.float64) for name, answer in answers.items()}
    return {
        name: round(float(np.nanmean(value)), 6)
        for name, value in values.items()
        if not np.isnan(value).all()
    }


def half_width(samples: Any) -> float | None:
    """Half the width of the 95 % interval of the mean of independent samples (rows); None for
    fewer than two."""
    values = np.asarray(samples, np.float64)
    values = np.nanmean(values, axis=1) if values.ndim == 2 else values
    values = values[~np.isnan(values)]
    if len(values) < 2:
        return None
    factor = STUDENT_T[len(values) - 1] if len(values) <= len(STUDENT_T) else 1.96
    return round(float(factor * values.std(ddof=1) / len(values) ** 0.5), 6)


def as_text(report: Mapping[str, Any]) -> str:
    """A table in per cent for each split."""
    lines = []
    for split, scores in report["splits"].items():
        lines.append(
            f"{split}: {report['prompts'][split]} held-out prompts × {report['pictures']} pictures"
        )
        lines.append(row("", [*scores]))
        if len(report["runs"]) > 1:
            for path, by_split in report["runs"].items():
                lines.append(row(path, [percent(by_split[split].get(q)) for q in scores]))
        widths = report["interval"][split]
        drawn = [percent(scores[q]) + f" ± {percent(widths[q])}" for q in scores]
        lines.append(row("drawn", drawn))
        for name in ("chance", "ceiling"):
            lines.append(row(name, [percent(report[name][split].get(q)) for q in scores]))
        lines.append("")
    over = f"the {len(report['runs'])} runs" if len(report["runs"]) > 1 else "the prompts"
    lines.append(
        f"Per cent; ± is half of a 95 % interval over {over}. Found among {report['gallery']:,} "
        f"distinct real pictures. chance: real pictures drawn by lot; ceiling: the real pictures "
        f"themselves as the VQGAN paints them; nn_is_train: the nearest real picture is a training "
        f"picture (the copying rate)."
    )
    return "\n".join(lines)


def percent(share: float | None) -> str:
    """A share as per cent, one digit behind the point."""
    return "–" if share is None else f"{100 * share:.1f}"


def row(name: str, cells: Sequence[str]) -> str:
    """A line of a table."""
    return f"  {name[-24:]:24}" + "".join(f"{cell:>14}" for cell in cells)


if __name__ == "__main__":
    run(main, EvaluateConfig, prog="python -m evaluate", about=ABOUT)
