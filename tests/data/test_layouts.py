"""Each layout is recognised: its line, its counts, and its row in docs/layouts.md agree.

`python -m tests.data.test_layouts` rewrites the page.
"""

import shlex
import sys
import tempfile
from pathlib import Path

import pytest

from command_line.parser import parse_config
from data.encode import reading_of
from data.encoding.config import EncodeConfig
from data.pictures.reading import read_pictures
from data.sources import Source, open_source
from data.sources.captions.splits import SPLITS
from data.sources.captions.texts import CAPTION_NAMES
from data.sources.files.addresses import PACKAGES
from data.sources.files.remote import MOST_KEPT
from data.sources.kinds import KINDS
from tests.data.layouts import LAYOUTS, N
from tests.data.test_faults_elsewhere import FAULTS

PAGE = Path(__file__).parents[2] / "docs" / "layouts.md"


def opened(name: str, folder: Path) -> Source:
    """Make the layout in `folder`/NAME, and open it with its flags."""
    _, make, flags, _ = LAYOUTS[name]
    (folder / name).mkdir()
    make(folder / name)
    config = parse_config(EncodeConfig, [f"--source={folder / name}", *flags])
    return open_source(config.source, config=reading_of(config))


def line_of(source: Source, folder: Path) -> str:
    """The printed line, without the path of the test's folder."""
    return source.describe().replace(f"{folder}/", "")


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout_goes_in(name: str, tmp_path: Path) -> None:
    _, _, flags, captions = LAYOUTS[name]
    source = opened(name, tmp_path)
    config = reading_of(parse_config(EncodeConfig, list(flags)))
    readings = list(read_pictures(source, 8, need_captions=True, config=config))
    assert [r.problem for r in readings] == [""] * N
    assert sum(len(r.example.captions) for r in readings if r.example) == captions
    assert source.num_captioned == N
    assert f"| `{line_of(source, tmp_path)}` |" in PAGE.read_text(encoding="utf-8")


def test_the_page_is_what_is_made_from_the_layouts() -> None:
    assert page() == PAGE.read_text(encoding="utf-8"), "meant? python -m tests.data.test_layouts"


def page() -> str:
    """The text of docs/layouts.md."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, (about, _, flags, _) in LAYOUTS.items():
            line = line_of(opened(name, Path(folder)), Path(folder))
            command = shlex.join(["--source", name, *flags])
            rows.append(f"| {about} | `{command}` | `{line}` |")
    splits: dict[str, list[str]] = {}
    for other, ours in SPLITS.items():
        splits.setdefault(ours, []).append(other)
    return _PAGE.format(
        rows="\n".join(rows),
        kinds="\n".join(f"| `{kind.name}` | {kind.about} |" for kind in KINDS),
        splits="\n".join(f"| `{ours}` | {', '.join(others)} |" for ours, others in splits.items()),
        names=", ".join(CAPTION_NAMES),
        addresses=_address_rows(),
        kept=MOST_KEPT >> 30,
        faults="\n".join(f"| {what} | {_links(where)} | {here} |" for what, where, here in FAULTS),
    )


def _links(where: str) -> str:
    """Markdown links to the issues in "OWNER/NAME#NUMBER OWNER/NAME#NUMBER"."""
    return ", ".join(
        f"[{one}](https://github.com/{one.replace('#', '/issues/')})" for one in where.split()
    )


def _address_rows() -> str:
    schemes: dict[str, list[str]] = {}
    for scheme, package in PACKAGES.items():
        if scheme == "memory":  # exists only within one process
            continue
        schemes.setdefault(package, []).append(f"`{scheme}://`")
    installed = {"fsspec[http]", "fsspec", "huggingface_hub"}
    return "\n".join(
        f"| {', '.join(some)} | {'nothing more' if p in installed else f'`pip install {p}`'} |"
        for p, some in schemes.items()
    )


_PAGE = """# Layouts of pictures and captions

Made by `python -m tests.data.test_layouts`, and held by that test: each layout is built with 20
pictures and read. `python -m data.encode` prints the line in the last column first.

| what you have | `python -m data.encode --out records/mine` … | first line printed |
| --- | --- | --- |
{rows}

Several sources are read one after the other: `--source first second`. `--data.source` of `python
-m vqgan.train` takes the same layouts; it needs no captions. Quote globs and ranges: `--source
'shards/{{000..123}}.tar'`. Links to folders are followed, each folder once. Pipes are never
opened. A path in a table is searched only among the files of the source, by as
many of its last parts as needed. It may be absolute, a Windows path, or the number at the end of
a picture's name (9 for COCO_train2014_000000000009.jpg). `--pictures FOLDER` names the folder of a
table's pictures if they are not beside it. Captions beside pictures are used for those that no
table has a caption for. `--source FOLDER/*.jpg` names pictures one by one.

Tables of captions and codes, as dalle-mini wrote them (columns `caption` and `encoding`), become
records by `python -m data.encoded encoded/*.parquet --vqgan FOLDER`, with the VQGAN of the codes.

## Addresses

A source may be an address, in any layout above: `--source s3://bucket/pictures`, `--source
'https://host/{{000..123}}.tar'`, `--source 'gs://bucket/*.tar'`, `--source hf://datasets/USER/NAME`
or, where no folder here has that name, `--source USER/NAME`.

| address | needs |
| --- | --- |
{addresses}

Each file is copied to the temporary folder (`TMPDIR`) when it is read, checked against its size,
and removed after others, so shards of any number take about {kept} GB; a saved data set stays as
a whole. A web server's folder has the files that its page lists. Users, passwords and queries of
an address are used, and neither printed nor kept in the records. A network failure is not a bad
picture: after four tries the command stops, and the same command resumes. Keys come from the
environment, as fsspec's packages read them (`AWS_ACCESS_KEY_ID`, `HF_TOKEN` …;
`FSSPEC_S3_ANON=true` for public buckets). Other schemes are refused by name. `pipe:` never runs
anything.

## Kinds

They are tried in this order; `--kind` names one.

| kind | what it is |
| --- | --- |
{kinds}

## Captions

Columns and JSON keys are tried in this order, in any letter case, and `NAME_0`, `NAME_1` … as
captions of one picture: {names}. Without any of them, columns with such a word in their names are
used (`long_caption`, `prompt_en`), and the first line of the output names it.
`--caption_column` names another.
Values may be texts, lists (also written as text: `["a cat", "one cat"]`), or structs of them, or
conversations, whose answers are captions; `weights` beside `captions` says how often each is drawn.
Text is UTF-8 or UTF-16, with or without a mark. Any other encoding is guessed and printed;
`--caption_encoding` names it. Names of files in other encodings are guessed, too. A damaged letter
of UTF-8 costs only itself. HTML's entities and inline tags are decoded. A file of captions
belongs to a picture of the same name, in the same letter case and Unicode form if there is one.

## Splits

A column `split`, folders `train/` and `validation/`, or names of tables and tars decide which
pictures are trained on; `--splits=none` divides all of them again. Splits with other names than
these are held out under their own names.

| ours | theirs |
| --- | --- |
{splits}

## Pictures

JPEG, PNG, WebP, GIF (its first frame), BMP, TIFF, AVIF, JPEG 2000, PPM and SVG (.svgz, too, and
without its texts); HEIC after `pip install pillow-heif`. Orientation is applied, colour profiles
become sRGB, 16 bits become 8.
Pictures become squares. A picture with a plain backdrop gets bars in its colour, and any other is
cropped to its middle (`--fit auto`). `--fit crop` crops all, `pad` adds bars of `--background` to
all, `stretch` distorts them. `--truncated keep` uses truncated JPEGs. Skipped pictures
are counted by their reasons and named in `bad_samples.jsonl` of the records; above
`--max_bad_fraction` encoding stops.

## Faults of other programs

People reported these faults elsewhere; tests/data/test_faults_elsewhere.py tests them here.

| fault | reported to | here |
| --- | --- | --- |
{faults}
"""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE, file=sys.stderr)
