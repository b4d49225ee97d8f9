"""Chooses guidance and temperature for a run on its own captions, into RUN/sampling.yaml.

Some captions are drawn with each of PAIRS: held-out ones of the tune half first, then training
ones. A picture is right if the nearest real one has the same concept, or the same caption in
records without concepts. Pairs that draw a larger share of blank pictures than the real ones are
rejected. Of the others, the one with the most right pictures is chosen.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import yaml
from jaxtyping import Bool, Float64, Int64, UInt8

from common.files import write_text
from common.json_files import Json
from config import Config
from data.exams.exam import Selection, choose_prompts, evenly, open_gallery
from data.records import Records
from data.text.tokens import clean
from drawing.drawer import make_drawer, picture_seed
from drawing.opening import SAMPLING_FILE, Parts
from model.config import SamplingConfig
from model.transformer import Params, Transformer
from weights.yaml_files import read_yaml

PAIRS = ((1.0, 1.0), (1.0, 0.7), (1.5, 0.7), (2.0, 0.7), (2.0, 0.4))
"""Pairs (guidance scale, temperature) that are tried."""
PROMPTS = 32
GALLERY = 2000
BLANK = 8.0
"""Standard deviation of pixel values, of 255, below which a picture is blank."""


@dataclass(frozen=True)
class Trial:
    """A pair and its results: the shares of right and of blank pictures."""

    guidance_scale: float
    temperature: float
    right: float
    blank: float

    @property
    def as_text(self) -> str:
        """A line such as "guidance 2, temperature 0.4: 81 % right, 0 % blank"."""
        return (
            f"guidance {self.guidance_scale:g}, temperature {self.temperature:g}: "
            f"{100 * self.right:.0f} % right, {100 * self.blank:.0f} % blank"
        )


def choose_sampling(
    config: Config, model: Transformer, records: Records, folder: Path, step: int, params: Params
) -> None:
    """Draw with each pair, print the results, and write the best pair into the run's folder. If the
    real pictures are missing or the weights are damaged, nothing is chosen, and a line says why."""
    try:
        trials, real = try_pairs(
            PAIRS, config.sampling, config.seed, model, records, folder, params
        )
    except (ValueError, OSError) as error:
        print(f"guidance and temperature are not chosen: {error}", file=sys.stderr, flush=True)
        return
    best = best_of(trials, real)
    chosen = with_pair(config.sampling, best.guidance_scale, best.temperature)
    tried = [asdict(trial) for trial in trials]
    record = {"step": step, "sampling": asdict(chosen), "tried": tried}
    write_text(folder / SAMPLING_FILE, yaml.safe_dump(record, sort_keys=False))
    for trial in trials:
        print(f"{trial.as_text}{' (taken)' if trial == best else ''}")
    print(f"{folder / SAMPLING_FILE}: drawing uses it unless flags say otherwise", flush=True)


def try_pairs(
    pairs: Sequence[tuple[float, float]],
    sampling: SamplingConfig,
    seed: int,
    model: Transformer,
    records: Records,
    parts: Parts | Path,
    params: Params,
) -> tuple[list[Trial], float]:
    """(the result of each pair, the share of blank pictures among the real ones). Raises ValueError
    if the real pictures are missing."""
    rows = choose_rows(records, PROMPTS)
    prompts = [records.examples[row]["caption"] for row in rows]
    seeds = [picture_seed(seed, prompt, 0) for prompt in prompts]
    drawers = [
        make_drawer(model, with_pair(sampling, *pair), parts, rows_per_call=len(rows))
        for pair in pairs
    ]
    size = drawers[0].image_size
    gallery, chosen = open_gallery(records, rows, GALLERY, size, with_concept)
    targets = np.searchsorted(chosen, rows)
    print(
        f"choosing guidance and temperature: {len(pairs)} × {len(rows)} pictures", file=sys.stderr
    )
    drawn = [drawer.draw(params, prompts, seeds) for drawer in drawers]
    limit = min(BLANK, float(np.median(deviations(gallery.pictures))) / 2)
    trials = []
    for (guidance, temperature), pictures in zip(pairs, drawn, strict=True):
        blank = are_blank(pictures, limit)
        right = (gallery.judge(pictures, targets)["concept"] > 0) & ~blank
        trials.append(Trial(guidance, temperature, float(right.mean()), float(blank.mean())))
    return trials, float(are_blank(gallery.pictures, limit).mean())


def with_pair(sampling: SamplingConfig, guidance: float, temperature: float) -> SamplingConfig:
    """The settings with another guidance scale and temperature."""
    return replace(sampling, guidance_scale=guidance, temperature=temperature)


def choose_rows(records: Records, count: int) -> Int64[np.ndarray, " p"]:
    """The rows of the examples whose captions are drawn: held-out ones of the tune half first, then
    training ones, evenly spaced."""
    tune = Selection(half="tune", max_prompts=0)
    held_out = [choose_prompts(records, split, tune) for split in records.held_out_splits]
    rows = evenly(np.concatenate([*held_out, np.zeros(0, np.int64)]), count)
    return np.concatenate([rows, evenly(records.rows("train"), count - len(rows))])


def with_concept(example: Json) -> Json:
    """The example; without a concept it gets its caption as one."""
    return {**example, "concept": example.get("concept") or clean(example["caption"]).lower()}


def are_blank(pictures: UInt8[np.ndarray, "b y x 3"], limit: float) -> Bool[np.ndarray, " b"]:
    """True for each picture whose standard deviation is below `limit`."""
    return deviations(pictures) < limit


def deviations(pictures: UInt8[np.ndarray, "b y x 3"]) -> Float64[np.ndarray, " b"]:
    """The standard deviation of each picture's pixel values, of 255."""
    return pictures.reshape(len(pictures), -1).std(axis=1)


def best_of(trials: Sequence[Trial], real_blank: float) -> Trial:
    """The pair with the most right pictures, out of the pairs that draw blank pictures no more
    often than real ones are blank, or else out of the pairs with the fewest blank ones. Ties go to
    the highest temperature, then to the lowest guidance."""
    least = max(real_blank, min(trial.blank for trial in trials))
    able = [trial for trial in trials if trial.blank <= least]
    return max(able, key=lambda one: (one.right, one.temperature, -one.guidance_scale))


def is_sampling_chosen(folder: Path, step: int) -> bool:
    """True if SAMPLING_FILE was chosen at this step of the run."""
    path = folder / SAMPLING_FILE
    return path.is_file() and read_yaml(path).get("step") == step
