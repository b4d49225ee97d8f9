"""An SVG from standard input as a PNG file on standard output, for data/pictures/vector.py.

It runs as a process of its own, because resvg ends its process on some damaged drawings. The
process may open no file, so that a drawing cannot show one, and its memory and time are bounded.
"""

import contextlib
import sys

MEMORY, SECONDS = 2 << 30, 30


def main() -> None:
    """Draw with the longer side of `argv[1]` pixels; the ground is transparent."""
    import resvg_py

    svg, size = sys.stdin.buffer.read().decode("utf-8", "replace"), int(sys.argv[1])
    with contextlib.suppress(ImportError, ValueError, OSError):  # not on Windows, partly on macOS
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    png = resvg_py.svg_to_bytes(
        svg_string=svg, width=size, height=size, dpi=96, skip_system_fonts=True
    )
    sys.stdout.buffer.write(bytes(png))


if __name__ == "__main__":
    main()
