"""MODEL_CARD.md of a trained VQGAN: its sizes, how it was made, and its figures."""

from collections.abc import Mapping
from pathlib import Path

from common import old_names
from common.files import write_text
from common.json_files import Json, parse_json, read_list
from common.split_names import TRAIN
from vqgan.config import VQGANConfig
from vqgan.pretrained import WEIGHTS_FILE

FILE = "MODEL_CARD.md"
LONGEST = 2**20  # bytes of a row of metrics

TEXT = """# VQGAN: {pixels} × {pixels} pixels to {grid} × {grid} tokens of {codes:,} codes

An autoencoder with a codebook, trained with this repository's `python -m vqgan.train`. The weights
are stored as float16 ({megabytes:.2f} MB) and computed as float32. Load it with
`vqgan.pretrained.load(folder)`.

## Made with
Commit `{commit}`, on {devices}, {hours:.2f} hours of training for {steps:,} updates
({examples:,} pictures seen).
```
python -m vqgan.train {flags}
```
{versions}

## Reaches
Means over the pictures of each split: PSNR of red, green and blue, SSIM of grey in a 7 × 7 uniform
window, pictures in 0..1, computed from the stored weights. `all` = every held-out picture; `train`
was trained on and is not in it. Over `all`, {usage:.1%} of the codes occur, with a perplexity of
{perplexity:.0f}.

| split | pictures | PSNR, dB | SSIM |
| --- | ---: | ---: | ---: |
{rows}
"""


def write(
    out: Path,
    run: Path,
    config: VQGANConfig,
    figures: Mapping[str, float],
    counts: Mapping[str, int],
) -> None:
    """Write the card of the weights in `out`, made by the run in folder `run`."""
    start = (read_list(run / "environment.json") or [{}])[-1]
    last = last_row(run / "metrics.jsonl")
    versions = start.get("versions")
    versions = versions if isinstance(versions, dict) else {}
    sizes = {**counts, "all": sum(n for name, n in counts.items() if name != TRAIN)}
    rows = [
        f"| {name} | {sizes[name]:,} | {figures[f'eval/{name}/psnr']:.2f} "
        f"| {figures[f'eval/{name}/ssim']:.4f} |"
        for name in sizes
    ]
    text = TEXT.format(
        pixels=config.image_size,
        grid=config.grid_size,
        codes=config.codebook_size,
        megabytes=(out / WEIGHTS_FILE).stat().st_size / 1e6,
        commit=start.get("commit") or "unknown",
        devices=start.get("devices", "unknown devices"),
        hours=last["hours"],
        steps=last["step"],
        examples=last["examples"],
        flags=old_names.current(str(start.get("command", "")).partition(" ")[2]),
        versions=", ".join(f"{name} {version}" for name, version in versions.items()),
        usage=figures["eval/all/usage"],
        perplexity=figures["eval/all/perplexity"],
        rows="\n".join(rows),
    )
    write_text(out / FILE, text)


def last_row(path: Path) -> Json:
    """The last row of metrics. Raises ValueError if it lacks step, hours or examples."""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - LONGEST, 0))
        lines = file.read().splitlines() or [b""]
    row = parse_json(lines[-1], f"the last line of {path}")
    values = row if isinstance(row, dict) else {}
    for name in ("step", "hours", "examples"):
        if type(values.get(name)) not in (int, float):
            raise ValueError(f"the last line of {path}: {name} is {values.get(name)!r:.40}")
    return values
