"""Write data/builtin/things.json.gz, the drawings of everyday things in this repository.

python -m experiments.things pictures/packages   # the folder with the npm packages

data/builtin/artist_sets.py names the packages, data/builtin/artist_things.py the things.
"""

import argparse
from pathlib import Path

from data.builtin.artist_sets import SHIPPED, join, licenses, open_sets, write_shipped
from data.builtin.artist_things import choose
from data.builtin.drawings import read_table


def main() -> None:
    """Write the drawings, and a page about their artists beside them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packages", type=Path)
    sets = open_sets(parser.parse_args().packages)
    drawings = choose(join(sets, read_table()), "things")
    write_shipped(sets, drawings, SHIPPED)
    SHIPPED.with_name("THINGS_LICENSES.md").write_text(licenses(sets), encoding="utf-8")
    print(f"{SHIPPED}: {len(drawings)} drawings, {SHIPPED.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
