"""Does the picture show its prompt? Draw held-out prompts, look for them among real pictures.

python -m evaluate runs/mine
python -m evaluate runs/seed0 runs/seed1 runs/seed2 --pictures=8 --json
"""

import runtime

runtime.prepare()

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from config import run
from data.exam import Answers, Exam, Half, Selection, open_exam
from data.folders import digest_folder
from data.grids import picture_grid, save_png
from data.records import Records, open_records
from drawing import Drawer, make_drawer, picture_seed
from drawing_memory import ROWS_PER_CALL
from model import transformer
from opening import Checkpoint, SamplingFlags, open_checkpoint, parts_of
from outputs import check_grid, check_is_png
from training.config import ComputeDtype, ParallelConfig
from training.fitting import GB, available_memory
from training.parallel import start

ABOUT = "Draw held-out prompts and say whether the pictures show them, beside chance and ceiling."
OFFENSIVE = ("middle finger", "ok hand", "pinched fingers", "sign of the horns", "thumbs down")
"""Words of prompts that are left out of the grid."""
GRID_PICTURES = 30

HALVES = {"tune": "the tune half", "report": "the report half", "all": "both halves"}

Scores = dict[str, float]
Grid = tuple[list[str], np.ndarray]
"""Prompts, and a picture of each: [prompt, 1, y, x, 3]."""


@dataclass(frozen=True)
class EvaluateConfig(SamplingFlags):
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
    compute_dtype: ComputeDtype = "float32"
    """Precision of activations and products."""
    rows_per_call: int = ROWS_PER_CALL
    """Pictures drawn at a time on each device."""

    def __post_init__(self) -> None:
        for name, least in (("pictures", 1), ("rows_per_call", 1), ("max_prompts", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} {getattr(self, name)} must be at least {least}")


def main(config: EvaluateConfig) -> None:
    """Judge every checkpoint and print the table or the JSON, then write the grid."""
    if config.grid:
        check_is_png(Path(config.grid), "grid")
        check_grid(Path(config.grid), "--grid")
    checkpoints = [open_checkpoint(path) for path in config.checkpoints]
    records = open_common_records(checkpoints, config)
    drawers = open_drawers(checkpoints, config)
    exam = open_exam(
        records,
        drawers[0].image_size,
        Selection(config.splits, config.half, config.max_prompts, config.max_gallery),
    )
    check_total(exam, drawers[0].image_size, config.pictures)
    results: list[dict[str, Answers]] = []
    grid: Grid | None = None
    for checkpoint, drawer in zip(checkpoints, drawers, strict=True):
        drawn = {split: draw(drawer, checkpoint, exam, split, config) for split in exam.targets}
        if config.grid and not results:
            grid = make_grid(exam, drawn)
        results.append({split: exam.judge(split, pictures) for split, pictures in drawn.items()})
    report = make_report(exam, drawers[0], results, config)
    print(json.dumps(report) if config.json else as_text(report), flush=True)
    if config.grid and grid is not None:  # last: a disk that is full by now costs no score
        save_png(Path(config.grid), picture_grid(*grid), {"prompts": grid[0]})
        print(f"{config.grid}: {len(grid[0])} held-out prompts", file=sys.stderr)


def check_total(exam: Exam, side: int, pictures: int) -> None:
    """Raise ValueError where the pictures of a checkpoint, which are judged together, are more than
    half of this machine's memory."""
    prompts = sum(len(rows) for rows in exam.rows.values())
    need, room = 3 * side * side * prompts * pictures, available_memory() // 2
    if need > room:
        raise ValueError(
            f"{prompts:,} prompts × {pictures:,} pictures take {need / GB:,.1f} GB of "
            f"{room / GB:,.1f} GB; take --pictures={max(1, pictures * room // need)} or fewer"
        )


def open_common_records(checkpoints: Sequence[Checkpoint], config: EvaluateConfig) -> Records:
    """The records of all the runs.

    Raises:
        ValueError: they are not the same, or not what the runs were trained on, or made with
            another VQGAN than a run paints with.
    """
    folders = [config.records or checkpoint.records for checkpoint in checkpoints]
    for folder, checkpoint in zip(folders, checkpoints, strict=True):
        if folder is None:
            raise ValueError(f"{checkpoint.folder} does not know its data; name --records")
        if open_records(folder).digest != open_records(str(folders[0])).digest:
            raise ValueError(
                f"{checkpoint.folder} was trained on {folder}, {checkpoints[0].folder} on "
                f"{folders[0]}, which is other data; evaluate them apart, or name --records"
            )
    records = open_records(str(folders[0]))
    for checkpoint in checkpoints:
        check_records(checkpoint, records, chosen=config.records is not None)
    return records


def check_records(checkpoint: Checkpoint, records: Records, chosen: bool) -> None:
    """Raise ValueError where a score would be about something else; only warn about other
    examples if they were `chosen`."""
    ours, theirs = (digest_folder(p) for p in (checkpoint.folder / "vqgan", records.vqgan_folder))
    if ours != theirs:
        raise ValueError(
            f"{records.folder} was encoded with another VQGAN ({theirs}) than the one that "
            f"{checkpoint.folder} paints with ({ours}); name --records encoded with "
            f"{checkpoint.folder / 'vqgan'}"
        )
    if checkpoint.records_digest == records.digest:
        return
    if chosen:
        print(
            f"warning: {checkpoint.folder} does not say that it was trained on {records.folder}; "
            f"pictures of its training may be among the prompts",
            file=sys.stderr,
        )
    elif checkpoint.records_digest is not None:
        raise ValueError(
            f"{checkpoint.folder} was trained on records {checkpoint.records_digest}, but "
            f"{records.folder} holds {records.digest} now; name --records"
        )


def open_drawers(checkpoints: Sequence[Checkpoint], config: EvaluateConfig) -> list[Drawer]:
    """A drawer for each checkpoint; those that would be equal are one, compiled once."""
    devices = start(ParallelConfig())
    drawers: dict[Any, Drawer] = {}
    chosen = []
    for checkpoint in checkpoints:
        sampling, parts = config.over(checkpoint.sampling), parts_of(checkpoint)
        key = checkpoint.model, sampling, *map(digest_folder, (parts.tokenizer, parts.vqgan))
        if key not in drawers:
            model = transformer.build(checkpoint.model, config.compute_dtype)
            drawers[key] = make_drawer(model, sampling, parts, config.rows_per_call, devices)
        chosen.append(drawers[key])
    return chosen


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


def make_grid(exam: Exam, drawn: Mapping[str, np.ndarray]) -> Grid:
    """The first picture of each prompt of each split, as many as look well on a page."""
    prompts = [prompt for split in drawn for prompt in exam.prompts(split)]
    pictures = np.concatenate([pictures[:, :1] for pictures in drawn.values()])
    kind = [i for i, prompt in enumerate(prompts) if not any(w in prompt for w in OFFENSIVE)]
    kind = kind[:GRID_PICTURES]
    return [prompts[i] for i in kind], pictures[kind]


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
            q: interval_of_runs([run[q] for run in runs])
            if len(runs) > 1
            else interval_of_prompts(results[0][split][q])
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


def interval_of_runs(scores: Sequence[float]) -> float:
    """Half the width of Student's 95 % interval of the mean over two or more training seeds."""
    return round(student_t(len(scores)) * float(np.std(scores, ddof=1)) / len(scores) ** 0.5, 6)


def interval_of_prompts(answers: Float[np.ndarray, "p k"]) -> float | None:
    """How far a 95 % interval of the share of right pictures reaches from it, for prompts alike
    to these; None for fewer than two.

    Wilson's (JASA 1927), which is not empty where all are right, as Student's would be. Pictures of
    one prompt tend to be right together, so they count as so many independent answers as explain
    the spread between the prompts: no fewer than there are prompts, no more than pictures.
    """
    asked = ~np.isnan(answers).any(axis=1)
    by_prompt = answers[asked].mean(axis=1, dtype=np.float64)
    prompts = len(by_prompt)
    if prompts < 2:
        return None
    share, spread = by_prompt.mean(), by_prompt.var(ddof=1) / prompts
    variance = share * (1 - share)
    count = np.clip(variance / max(spread, 1e-12), prompts, answers[asked].size)
    z2 = student_t(prompts) ** 2 / count
    centre = (share + z2 / 2) / (1 + z2)
    reach = (z2 * (variance + z2 / 4)) ** 0.5 / (1 + z2)
    return round(float(abs(share - centre) + reach), 6)


def student_t(samples: int) -> float:
    """Student's t that bounds 95 % on both sides of the mean of so many samples."""
    from scipy import stats  # comes with jax; half a second to import

    return float(stats.t.ppf(0.975, samples - 1))


def as_text(report: Mapping[str, Any]) -> str:
    """A table in per cent for each split."""
    lines = []
    for split, scores in report["splits"].items():
        lines.append(
            f"{split}: {report['prompts'][split]} held-out prompts × {report['pictures']} pictures"
            f", {HALVES[report['half']]}"
        )
        lines.append(row("", [*scores]))
        if len(report["runs"]) > 1:
            for path, by_split in report["runs"].items():
                lines.append(row(path, [percent(by_split[split].get(q)) for q in scores]))
        widths = report["interval"][split]
        drawn = [with_interval(scores[q], widths[q]) for q in scores]
        lines.append(row("drawn", drawn))
        for name in ("chance", "ceiling"):
            lines.append(row(name, [percent(report[name][split].get(q)) for q in scores]))
        lines.append("")
    over = f"the {len(report['runs'])} runs" if len(report["runs"]) > 1 else "the prompts"
    lines.append(
        f"Per cent; in brackets a 95 % interval over {over}. Found among {report['gallery']:,} "
        f"distinct real pictures. chance: real pictures drawn by lot; ceiling: the real pictures "
        f"themselves as the VQGAN paints them; nn_is_train: the nearest real picture is a training "
        f"picture (the copying rate)."
    )
    return "\n".join(lines)


def percent(share: float | None) -> str:
    """A share as per cent, one digit behind the point."""
    return "–" if share is None else f"{100 * share:.1f}"


def with_interval(share: float, width: float | None) -> str:
    """A share and, in brackets, how low and high it may be; no share is below 0 or above 1."""
    if width is None:
        return percent(share)
    low, high = max(share - width, 0.0), min(share + width, 1.0)
    return f"{percent(share)} [{100 * low:.0f}–{100 * high:.0f}]"


def row(name: str, cells: Sequence[str]) -> str:
    """A line of a table."""
    return f"  {name[-20:]:20}" + "".join(f"{cell:>16}" for cell in cells)


if __name__ == "__main__":
    run(main, EvaluateConfig, prog="python -m evaluate", about=ABOUT)
