"""A web page to draw with: prompt, style, negative prompt, number, guidance, temperature, seed.

python app.py
"""

import runtime

runtime.prepare()

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from command_line.parser import run
from common.settings import check_least
from data.pictures.grids import SHOWN_SIDE, enlarge
from drawing.studio import LONGEST, MAX_SEED, SIZES, Studio, open_studio, request

try:
    import gradio as gr
except ImportError:  # requirements-app.txt is not installed: main says so
    gr = None

FIRST_IN_HELP = ("checkpoint", "port", "host")
"""Settings that --help begins with."""
MAX_PORT = 65_535
WAITING = 64
"""Most requests in the queue; further ones are refused."""
CSS = """
img {image-rendering: pixelated}
footer {display: none !important}
.grid-wrap {max-height: none !important; min-height: 0 !important; height: auto !important;
  overflow: visible !important}
.thumbnail-lg {aspect-ratio: auto !important; height: auto !important}
.thumbnail-lg img {aspect-ratio: 1; height: auto !important}
.caption-label {position: static !important; max-width: 100% !important; text-align: center;
  border-width: 1px 0 0 !important; border-radius: 0 !important}
"""
FONT = ["system-ui", "sans-serif"]  # nothing is fetched from elsewhere


@dataclass(frozen=True)
class AppConfig:
    """The model that the page draws with, and the address of the page."""

    checkpoint: str = "demo_large"
    """Default: the demo. Or else RUN, RUN/checkpoints/STEP, or a release folder."""
    host: str = "127.0.0.1"
    """Address that is served; 0.0.0.0 = every network that this machine is on."""
    port: int = 7860
    """Port that is served; 0 = a free one."""
    known: int = 18
    """Training captions that are drawn at the start, and shown below; 0 = none."""

    def __post_init__(self) -> None:
        check_least(self, "", 0, "port", "known")
        if self.port > MAX_PORT:
            raise ValueError(f"port {self.port} is beyond {MAX_PORT}, the last one")


def main(config: AppConfig) -> None:
    """Serve the page until Ctrl-C. Raises ValueError if gradio is not installed."""
    if gr is None:
        raise ValueError("the page needs gradio: make app, or pip install -r requirements-app.txt")
    studio = open_studio(config.checkpoint)
    print("compiling, and drawing what the model knows …", flush=True)
    for _ in studio.draw(request("", number=SIZES[-1])):
        pass
    page = make_page(studio, draw_known(studio, config.known))
    print(f"{launch(page, config.host, config.port)} until Ctrl-C", flush=True)
    page.block_thread()


def launch(page: Any, host: str, port: int) -> str:
    """Serve the page in another thread, and return its address. Raises OSError if the port is in
    use."""
    _, address, _ = page.queue(max_size=WAITING, default_concurrency_limit=1).launch(
        server_name=host,
        server_port=port or None,
        prevent_thread_lock=True,
        quiet=True,
        ssr_mode=False,
        share=False,
        max_file_size=1,  # byte: the page has no upload, but gradio stores what anybody sends
        css=CSS,
        theme=gr.themes.Base(font=FONT, font_mono=["monospace"]),
    )
    return str(address)


Shown = list[tuple[Any, str]]
"""Pictures of a gallery, each with its label."""


def draw_known(studio: Studio, count: int) -> Shown:
    """Drawn pictures of some training captions, with the captions as labels."""
    captions = studio.known(count) if count else []
    if not captions:
        return []
    pictures = studio.drawer.draw(studio.params, captions, [0] * len(captions))
    return [(show(picture), caption) for picture, caption in zip(pictures, captions, strict=True)]


def show(picture: np.ndarray) -> Any:
    """The picture, enlarged as on grids."""
    return enlarge(picture, max(1, round(2 * SHOWN_SIDE / picture.shape[1])))


def make_drawing(studio: Studio) -> Callable[..., Iterator[tuple[Shown, str]]]:
    """The function that the button calls. It yields (gallery, warnings) after each row of image
    tokens."""

    def draw(*values: Any) -> Iterator[tuple[Shown, str]]:
        try:
            order = request(*values)
            remarks = "\n".join(studio.remarks(order))
            for pictures in studio.draw(order):
                names = [f"seed {order.seed} · {k}" for k in range(order.number)]
                yield list(zip(map(show, pictures), names, strict=True)), remarks
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from None

    return draw


def make_page(studio: Studio, known: Shown) -> Any:
    """The page, a gradio.Blocks: inputs at the left, pictures at the right, and below them things
    that the model knows."""
    sampling = studio.sampling
    with gr.Blocks(title="Pastel", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.Markdown("# Pastel")
        with gr.Row():
            with gr.Column(scale=1):
                prompt = gr.Textbox(label="Prompt", max_length=LONGEST, elem_id="prompt")
                style = gr.Dropdown(
                    ["", *studio.styles], value="", label="Style", visible=bool(studio.styles)
                )
                negative = gr.Textbox(
                    label="Negative prompt", max_length=LONGEST, elem_id="negative"
                )
                number = gr.Slider(1, SIZES[-1], SIZES[-1], step=1, label="Pictures")
                guidance = gr.Slider(0, 10, sampling.guidance_scale, label="Guidance")
                temperature = gr.Slider(0, 2, sampling.temperature, label="Temperature")
                seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=MAX_SEED)
                button = gr.Button("Draw", variant="primary", elem_id="draw")
            with gr.Column(scale=2):
                pictures = gr.Gallery(
                    show_label=False, columns=3, format="png", elem_id="pictures", height="auto"
                )
                about = gr.Textbox(label="What the model does not know", interactive=False)
        if known:
            gr.Markdown("What it knows: choose one")
            below = gr.Gallery(
                known,
                show_label=False,
                columns=9,
                format="png",
                elem_id="known",
                allow_preview=False,
                height="auto",
            )

            def choose(chosen: gr.SelectData) -> str:
                return known[int(chosen.index)][1]

            below.select(choose, None, prompt, api_name=False, queue=False)
        inputs = [prompt, style, negative, number, guidance, temperature, seed]
        for start in (button.click, prompt.submit):
            start(make_drawing(studio), inputs, [pictures, about], api_name="draw")
    return page


if __name__ == "__main__":
    run(main, AppConfig, prog="app.py", about=__doc__ or "", first=FIRST_IN_HELP)
