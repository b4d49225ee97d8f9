"""Does the picture show its prompt? Draw held-out prompts, look for them among real pictures.

python -m evaluate runs/mine
python -m evaluate runs/seed0 runs/seed1 runs/seed2 --pictures=8 --json
"""

import runtime

runtime.prepare()

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from command_line.parser import run
from common.files import write_text
from common.settings import check_least
from data.exams.exam import (
    Exam,
    Half,
    Selection,
    find_unseen,
    open_exam,
    with_prompts,
)
from data.pictures.grids import picture_grid, save_png
from data.records import Records
from data.stored.folders import digest_folder
from drawing.choosing import Trial, try_pairs
from drawing.drawer import Drawer, make_drawer, picture_seed
from drawing.memory import ROWS_PER_CALL
from drawing.opening import Checkpoint, open_checkpoint, parts_of
from drawing.ranking import Ranker, best_first, check_candidates, find_ranker
from drawing.sampling_flags import SamplingFlags
from evaluation.common_records import open_common_records
from evaluation.held_out_grid import make_grid, place_of_grid
from evaluation.judging import Drawn, judge, measure_yardsticks
from evaluation.page import check_is_page, choose_shown, page
from evaluation.report import Drawing, make_report
from evaluation.set_figures import FeatureSpace, describe_clip, open_features
from evaluation.table import as_text
from model import transformer
from model.config import SamplingConfig
from training.config import ComputeDtype, ParallelConfig
from training.devices.devices import find_devices
from training.devices.fitting import GB, available_memory

FIRST_IN_HELP = (
    *("checkpoints", "splits", "pictures", "max_prompts", "half", "records", "grid", "json"),
    *("guidance_scale", "temperature"),
)
"""Settings that --help begins with."""
DEFAULT_PROMPTS = 64


@dataclass(frozen=True)
class EvaluateConfig(SamplingFlags):
    """The checkpoints, their prompts, and settings of drawing."""

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
    """Half of the held-out prompts, by crc32 of the example's key: settings are chosen on the tune
    half and reported on the other."""
    pictures: int = 4
    """Pictures of each prompt that are judged."""
    candidates: int = 0
    """Pictures drawn of each prompt; of them those are judged that CLIP scores highest, as many as
    --pictures says. 0 = no more than these."""
    max_prompts: int = DEFAULT_PROMPTS
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
    """PNG file for a grid of drawn held-out prompts; default: held_out.png in the first run's
    folder. Empty (--grid=): none."""
    page: str | None = None
    """HTML file with the figures and, for 60 prompts, the real picture, the drawn ones, and the
    real one that the first of them is nearest to."""
    pairs: tuple[str, ...] = field(
        default=(),
        metadata={
            "nargs": "*",
            "help": "GUIDANCE:TEMPERATURE, such as 1:1 1.5:0.4: 32 prompts of the tune half are "
            "drawn with each, by the first checkpoint.",
        },
    )
    """Pairs that are tried on the half on which settings are chosen."""
    clip: str | None = None
    """Folder of CLIP's weights and tokenizer.json, or a run of clip.train. It ranks the candidates;
    default: clip/ beside the first checkpoint. Without candidates it gives the Fréchet distance and
    a score, otherwise the distance is one of shapes and colours."""
    seed: int = 0
    """Another seed draws other pictures."""
    compute_dtype: ComputeDtype = "float32"
    """Precision of activations and products."""
    rows_per_call: int = ROWS_PER_CALL
    """Pictures drawn at a time on each device."""

    def __post_init__(self) -> None:
        check_least(self, "", 1, "pictures", "rows_per_call")
        check_least(self, "", 0, "max_prompts", "candidates")
        check_candidates(self.candidates, self.pictures)
        for pair in self.pairs:
            parse_pair(pair)


def parse_pair(word: str) -> tuple[float, float]:
    """Guidance and temperature. Raises ValueError for anything else than two numbers."""
    guidance, _, temperature = word.partition(":")
    try:
        pair = float(guidance), float(temperature)
        SamplingConfig(guidance_scale=pair[0], temperature=pair[1])
    except ValueError as error:
        raise ValueError(
            f"pairs {word!r}: not GUIDANCE:TEMPERATURE like 1.5:0.4 ({error})"
        ) from None
    return pair


def main(config: EvaluateConfig) -> None:
    """Judge every checkpoint and print the table or the JSON, then write the grid and the page."""
    checkpoints = [open_checkpoint(path) for path in config.checkpoints]
    records = open_common_records(checkpoints, config.records)
    grid_path = place_of_grid(checkpoints[0], config.grid)
    if config.page:
        check_is_page(Path(config.page))
    drawers = open_drawers(checkpoints, config)
    ranker, space = open_clip(checkpoints[0], config)
    config, exam, unseen = ask(records, drawers[0], config)

    yardsticks = measure_yardsticks(exam, drawers[0], space)
    first: dict[str, Drawn] = {}
    judgements = []
    for checkpoint, drawer in zip(checkpoints, drawers, strict=True):
        drawn = {
            split: draw(drawer, checkpoint, exam, split, config, ranker) for split in exam.rows
        }
        first = first or drawn
        judgements.append(judge(exam, drawer, drawn, space, yardsticks))
    trials = try_all(checkpoints[0], records, config)

    drawing = Drawing(pictures=config.pictures, candidates=config.candidates, half=config.half)
    runs = list(zip(config.checkpoints, judgements, strict=True))
    report = make_report(exam, yardsticks, runs, drawing, unseen)
    report["seen_by"] = space.name
    report["pairs"] = [asdict(trial) for trial in trials]
    lines = [as_text(report), *(trial.as_text for trial in trials)]
    print(json.dumps(report) if config.json else "\n".join(lines), flush=True)
    if grid_path:  # last: a disk that is full by now costs no score
        prompts, pictures = make_grid(exam, first)
        save_png(grid_path, picture_grid(prompts, pictures), {"prompts": prompts})
        print(f"{grid_path}: {len(prompts)} prompts", file=sys.stderr)
    if config.page:
        title = f"Evaluation of {config.checkpoints[0]}"
        shown = choose_shown(exam, first, judgements[0].answers)
        write_text(Path(config.page), page(title, report, shown, trials))
        print(f"{config.page}: figures and pictures", file=sys.stderr)


def open_clip(checkpoint: Checkpoint, config: EvaluateConfig) -> tuple[Ranker | None, FeatureSpace]:
    """(the CLIP that ranks the candidates, the features with which pictures are compared). One CLIP
    is never both: its score of pictures that it chose itself would not be evidence."""
    ranker = None
    if config.candidates:
        ranker = find_ranker(config.clip, checkpoint.folder, config.candidates, checkpoint.records)
    space = open_features(None if ranker else config.clip)
    if config.clip:
        print(describe_clip(config.clip, config.pictures, config.candidates), file=sys.stderr)
    return ranker, space


def ask(
    records: Records, drawer: Drawer, config: EvaluateConfig
) -> tuple[EvaluateConfig, Exam, dict[str, list[str]]]:
    """The exam, the half of the prompts that it uses, and the prompts with things that training
    never showed. Raises ValueError for more pictures than memory holds."""
    wanted = Selection(config.splits, config.half, config.max_prompts, config.max_gallery)
    selection = with_prompts(records, wanted)
    if selection != wanted:
        print("few pictures are held out: both halves of them are asked for", file=sys.stderr)
        config = replace(config, half=selection.half)
    unseen = find_unseen(records, selection)
    if unseen:
        selection = replace(selection, num_training=config.max_prompts or DEFAULT_PROMPTS)
    exam = open_exam(records, drawer.image_size, selection)
    check_total(exam, drawer.image_size, max(config.pictures, config.candidates))
    return config, exam, unseen


def try_all(checkpoint: Checkpoint, records: Records, config: EvaluateConfig) -> list[Trial]:
    """The results of config.pairs, if there are some."""
    if not config.pairs:
        return []
    model = transformer.build(checkpoint.model, config.compute_dtype)
    sampling, parts = config.applied_to(checkpoint.sampling), parts_of(checkpoint)
    pairs = [parse_pair(pair) for pair in config.pairs]
    return try_pairs(pairs, sampling, config.seed, model, records, parts, checkpoint.params)[0]


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


def open_drawers(checkpoints: Sequence[Checkpoint], config: EvaluateConfig) -> list[Drawer]:
    """A drawer for each checkpoint. Equal ones share one drawer, compiled once."""
    devices = find_devices(ParallelConfig())
    drawers: dict[Any, Drawer] = {}
    chosen = []
    for checkpoint in checkpoints:
        sampling, parts = config.applied_to(checkpoint.sampling), parts_of(checkpoint)
        key = checkpoint.model, sampling, *map(digest_folder, (parts.tokenizer, parts.vqgan))
        if key not in drawers:
            model = transformer.build(checkpoint.model, config.compute_dtype)
            drawers[key] = make_drawer(model, sampling, parts, config.rows_per_call, devices)
        chosen.append(drawers[key])
    return chosen


def draw(
    drawer: Drawer,
    checkpoint: Checkpoint,
    exam: Exam,
    split: str,
    config: EvaluateConfig,
    ranker: Ranker | None = None,
) -> Drawn:
    """Drawn pictures of a split's prompts: of the candidates, if there are some, those that
    `ranker` scores highest."""
    prompts, count = exam.prompts(split), max(config.pictures, config.candidates)
    jobs = [(prompt, k) for prompt in prompts for k in range(count)]
    seeds = [picture_seed(config.seed, prompt, k) for prompt, k in jobs]
    batches = drawer.draw_batches(checkpoint.params, [prompt for prompt, _ in jobs], seeds)
    with tqdm(total=len(jobs), desc=f"drawing {split}", unit=" pictures", disable=None) as bar:
        drawn = []
        for batch in batches:
            drawn.append(batch)
            bar.update(len(batch))
    pictures = np.concatenate(drawn)
    blocks = pictures.reshape(-1, count, *pictures.shape[1:])
    if ranker:
        scores = ranker.score([prompt for prompt, _ in jobs], pictures)
        blocks, _ = best_first(blocks, scores.reshape(-1, count))
    return blocks[:, : config.pictures]


if __name__ == "__main__":
    run(main, EvaluateConfig, prog="python -m evaluate", about=__doc__ or "", first=FIRST_IN_HELP)
