"""Draw pictures of prompts from a checkpoint: a labelled grid, and every picture as its own PNG.

python generate.py --prompts "a red heart" "a cat" --pictures 9
"""

import runtime

runtime.prepare()

import dataclasses
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import repeat, tee
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8
from tqdm import tqdm

from command_line.parser import run
from common.settings import check_least
from data.pictures.grids import picture_grid, save_gif, save_png
from data.text.tokens import clean
from data.text.words import Captions
from drawing.completing import read_given_tokens
from drawing.drawer import Drawer, make_drawer, picture_seed
from drawing.memory import rows_for
from drawing.opening import Checkpoint, open_checkpoint, parts_of
from drawing.outputs import make_room, output_paths, sources_of
from drawing.prompts import in_english, known_captions, read_prompts, warn_of_unknown
from drawing.ranking import (
    Ranker,
    best_first,
    check_candidates,
    describe_scores,
    find_ranker,
    scored,
)
from drawing.sampling_flags import SamplingFlags
from drawing.unfinished import stages
from model import transformer
from training.config import ComputeDtype, ParallelConfig
from training.devices.devices import find_devices

FIRST_IN_HELP = (
    *("checkpoint", "prompts", "pictures", "out", "seed", "guidance_scale", "temperature"),
    *("negative", "complete", "clip"),
)
DEMO = "demo_large"
"""The trained model in this repository."""
MAX_PICTURES = 1_000_000
"""Most pictures of one command: their prompts are in memory together."""
MAX_IN_GRID = 900
"""Most pictures on the grid; each picture is also written as its own file."""
Settings = dict[str, str | int | float | None]


@dataclass(frozen=True)
class GenerateConfig(SamplingFlags):
    """The prompts, the model, and the place for the pictures."""

    checkpoint: str = DEMO
    """Default: the demo, which knows 583 everyday things (demo_large/MODEL_CARD.md). Or else
    RUN, RUN/checkpoints/STEP, a release folder (config.json and model.safetensors), or one of
    DALL·E mini's (config.json and flax_model.msgpack)."""
    tokenizer: str | None = None
    """Tokenizer's folder or tokenizer.json; default: the checkpoint's own."""
    vqgan: str | None = None
    """VQGAN's folder or checkpoint, also of vqgan-jax or taming-transformers; default: the
    checkpoint's own."""
    prompts: tuple[str, ...] = field(
        default=(),
        metadata={"nargs": "*", "help": 'One or more prompts; "" draws without a prompt.'},
    )
    """Prompts, one word of the command line each."""
    prompts_file: str | None = None
    """File with one prompt per line, added to --prompts; "-" reads standard input."""
    pictures: int = 1
    """Pictures of each prompt."""
    complete: str | None = None
    """Picture file to complete: its upper part is kept, the rest is drawn."""
    complete_rows: int = 0
    """Rows of image tokens kept of it; 0 = the upper half."""
    mask: str | None = None
    """Part of the picture that is redrawn: a picture file's light parts, or a rectangle as
    LEFT,TOP,RIGHT,BOTTOM in shares of the picture, such as 0.5,0.5,1,1. Each token is drawn from
    those above it and to its left."""
    negative: str = ""
    """Text that guidance leads away from, in place of the empty caption."""
    gif: bool = False
    """Also write each picture as a GIF of how it was drawn, row by row."""
    clip: str | None = None
    """A run of python -m clip.train, or a folder with CLIP's weights (config.json and
    model.safetensors) and tokenizer.json: each prompt's pictures are sorted best first on the grid,
    and the scores are printed. Default: clip/ beside the checkpoint, if it is there."""
    candidates: int = 0
    """Pictures drawn of each prompt. The grid shows those that CLIP scores highest, as many as
    --pictures says; 0 = no more than these."""
    out: str = "drawn.png"
    """The grid's file, with a folder of the same name without .png beside it for the pictures; or a
    folder, which gets grid.png and the pictures. Other pictures may not be in that folder."""
    seed: int = 0
    """Another seed draws other pictures. A picture depends only on (seed, prompt, its number)."""
    compute_dtype: ComputeDtype = "float32"
    """Precision of activations and products; in half precision a picture may differ a little with
    rows_per_call and device."""
    rows_per_call: int = 0
    """Pictures drawn at a time on each device, always exactly so many; fewer need less memory.
    0 = as many as are asked for, in powers of two up to 32."""

    def __post_init__(self) -> None:
        if self.mask is not None and (self.complete is None or self.complete_rows):
            raise ValueError("mask says which part of --complete is redrawn; give --complete, too")
        check_least(self, "", 1, "pictures")
        check_least(self, "", 0, "rows_per_call", "complete_rows", "candidates")
        check_candidates(self.candidates, self.pictures)

    @property
    def drawn(self) -> int:
        """Pictures drawn of each prompt."""
        return max(self.pictures, self.candidates)


def main(config: GenerateConfig) -> None:
    """Draw the prompts, write each picture when it is ready, then the grid."""
    prompts = all_prompts(config)
    grid_path, folder = output_paths(config.out)
    checkpoint = open_checkpoint(config.checkpoint)
    captions = known_captions(checkpoint.folder, checkpoint.all_records)
    known = Captions(captions) if captions else None
    prompts = in_english(prompts, known)
    ranker = find_ranker(config.clip, checkpoint.folder, config.candidates, checkpoint.records)
    jobs = [Job(p, i, k) for i, p in enumerate(prompts) for k in range(config.drawn)]
    drawer, settings = open_drawer(checkpoint, len(jobs), config)
    # From here on only the placed parameters are used; this frees the others.
    params, checkpoint = drawer.place(checkpoint.params), replace(checkpoint, params={})
    drawn = drawer.draw_tokens(
        params,
        [job.prompt for job in jobs],
        [picture_seed(config.seed, job.prompt, job.number) for job in jobs],
        read_given_tokens(drawer, config.complete, config.complete_rows, config.mask),
    )
    make_room(grid_path, folder, sources_of(checkpoint.records))
    warn_of_prompts(prompts, config.negative, drawer, known)
    pictures = finished_pictures(drawer, ranker, jobs, drawn, config.gif)
    on_grid, scores = save_pictures(jobs, pictures, folder, config.seed, settings)
    write_grid(grid_path, prompts, config, on_grid, scores, settings)
    print(
        f"{grid_path}: {len(prompts)} prompt(s) × {config.pictures} picture(s), "
        f"{'each also' if config.drawn == config.pictures else f'all {config.drawn}'} in {folder}/"
    )


def all_prompts(config: GenerateConfig) -> list[str]:
    """The prompts of --prompts and --prompts_file. Raises ValueError if there are none, or more
    than one command draws."""
    prompts = [*config.prompts, *read_prompts(config.prompts_file)]
    if not prompts:
        raise ValueError('no prompts: pass --prompts "a red heart" or --prompts_file FILE')
    if (total := len(prompts) * config.drawn) > MAX_PICTURES:
        raise ValueError(
            f"{len(prompts):,} prompt(s) × {config.drawn:,} pictures are {total:,}; at most "
            f"{MAX_PICTURES:,} are drawn by one command: take fewer, or several with other seeds"
        )
    return prompts


def open_drawer(
    checkpoint: Checkpoint, total: int, config: GenerateConfig
) -> tuple[Drawer, Settings]:
    """(the drawer, all settings that determine a picture, except its prompt and seed)."""
    sampling = config.applied_to(checkpoint.sampling)
    devices = find_devices(ParallelConfig())
    rows = config.rows_per_call or rows_for(total, len(devices))
    model = transformer.build(checkpoint.model, config.compute_dtype)
    parts = parts_of(checkpoint, config.tokenizer, config.vqgan)
    if config.negative and sampling.guidance_scale == 1:
        raise ValueError("negative needs guidance to lead away from it: --guidance_scale above 1")
    drawer = make_drawer(model, sampling, parts, rows, devices, config.negative)
    return drawer, {
        "checkpoint": config.checkpoint,
        "step": checkpoint.step,
        **dataclasses.asdict(sampling),
        "compute_dtype": config.compute_dtype,
        "rows_per_call": rows,
        **{
            name: clean(getattr(config, name))
            for name in ("negative", "complete", "mask")
            if getattr(config, name)
        },
    }


def warn_of_prompts(
    prompts: list[str], negative: str, drawer: Drawer, known: Captions | None
) -> None:
    """Warn about prompts that are truncated, and about words that the model cannot know."""
    texts = [*prompts, *([negative] if negative else [])]
    if cut := drawer.num_cut(texts):
        print(
            f"warning: {cut} of {len(texts)} prompts are longer than the model's "
            f"{drawer.model.text_length} text tokens and were truncated",
            file=sys.stderr,
        )
    warn_of_unknown(texts, known)


@dataclass(frozen=True)
class Job:
    """One picture to draw."""

    prompt: str
    prompt_index: int
    number: int

    @property
    def file_name(self) -> str:
        """A name such as 000-a-red-heart-3.png; no prompt can name another folder."""
        letters = "".join(c if c.isascii() and c.isalnum() else " " for c in clean(self.prompt))
        words = "-".join(letters.lower().split())[:40].strip("-") or "prompt"
        return f"{self.prompt_index:03d}-{words}-{self.number}.png"


class Finished(NamedTuple):
    """A drawn picture, with everything that is saved about it."""

    picture: UInt8[np.ndarray, "y x 3"]
    score: float | None
    """None without a CLIP."""
    frames: UInt8[np.ndarray, "s y x 3"] | None
    """The picture after each of its rows; None without --gif."""


def finished_pictures(
    drawer: Drawer,
    ranker: Ranker | None,
    jobs: list[Job],
    drawn: Iterator[tuple[np.ndarray, np.ndarray]],
    with_frames: bool,
) -> Iterator[Finished]:
    """Yield the picture of each job. `drawn` yields batches of (image tokens, pictures)."""
    frames: Iterator[np.ndarray | None] = repeat(None)
    if with_frames:
        drawn, again = tee(drawn)
        frames = (stages(drawer, row) for tokens, _ in again for row in tokens)
    judged = scored(ranker, [job.prompt for job in jobs], (pictures for _, pictures in drawn))
    for (picture, score), own_frames in zip(judged, frames, strict=False):
        yield Finished(picture, score, own_frames)


def save_pictures(
    jobs: list[Job],
    pictures: Iterator[Finished],
    folder: Path,
    seed: int,
    settings: Settings,
) -> tuple[list[np.ndarray], list[float | None]]:
    """Write each picture as soon as it is drawn, and its GIF if it has frames. Returns (the
    pictures for the grid, all scores)."""
    kept: list[np.ndarray] = []
    scores: list[float | None] = []
    with tqdm(total=len(jobs), desc="drawing", unit=" pictures", disable=None) as bar:
        for job, (picture, score, frames) in zip(jobs, pictures, strict=True):
            about = {"prompt": clean(job.prompt), "seed": seed, "picture": job.number}
            about |= {} if score is None else {"clip_score": round(score, 4)}
            save_png(folder / job.file_name, picture, {**about, "settings": settings})
            if frames is not None:
                path = (folder / job.file_name).with_suffix(".gif")
                save_gif(path, frames, f"{clean(job.prompt)} (seed {seed})")
            if len(kept) < MAX_IN_GRID:
                kept.append(picture)
            scores.append(score)
            bar.update()
    return kept, scores


def print_scores(prompts: list[str], scores: Float32[np.ndarray, "p k"]) -> None:
    """Print a line for each prompt, with the scores of its pictures."""
    for prompt, row in zip(prompts, scores.tolist(), strict=True):
        print(describe_scores(prompt, row))


def write_grid(
    path: Path,
    prompts: list[str],
    config: GenerateConfig,
    pictures: list[np.ndarray],
    scores: list[float | None],
    settings: Settings,
) -> None:
    """Write the grid of the first prompts, as many as fit. Scored pictures are sorted best
    first."""
    per_prompt = min(config.drawn, len(pictures))
    count = len(pictures) // per_prompt
    if count < len(prompts):
        print(f"the grid shows the first {count} of {len(prompts)} prompts", file=sys.stderr)
    numbers = np.tile(np.arange(per_prompt), (count, 1))
    blocks = np.stack(pictures[: count * per_prompt]).reshape(count, per_prompt, *pictures[0].shape)
    if None not in scores:
        table = np.array(scores, np.float32).reshape(len(prompts), config.drawn)
        print_scores(prompts, table)
        blocks, numbers = best_first(blocks, table[:count, :per_prompt])
        blocks, numbers = (part[:, : config.pictures] for part in (blocks, numbers))
    about = {
        "prompts": [clean(prompt) for prompt in prompts[:count]],
        "seed": config.seed,
        "settings": settings,
    }
    notes = [[f"seed {config.seed} · {number}" for number in row] for row in numbers.tolist()]
    save_png(path, picture_grid(prompts[:count], blocks, notes=notes), about)


if __name__ == "__main__":
    run(main, GenerateConfig, prog="generate.py", about=__doc__ or "", first=FIRST_IN_HELP)
