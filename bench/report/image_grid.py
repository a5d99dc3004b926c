"""The same prompts across methods and steps, as an image and as data for the page."""

from __future__ import annotations

import textwrap
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from bench.analysis.scoring import ScoredCell, ScoredRun
from bench.report.embedded_images import InputPicture, Picture, input_pictures, open_picture, to_gif
from bench.report.series import to_series

PROMPTS = 8
MOST_EMBEDDED = 1000
"""Of all prompts on a page; of many cells fewer prompts are shown."""


@dataclass(frozen=True)
class PromptGrid:
    """One prompt: for each line of cells (label), the images by step count; None where there is none."""

    model: str
    prompt: str
    steps: tuple[int, ...]
    rows: tuple[tuple[str, tuple[Picture | None, ...]], ...]
    frames: int = 1
    inputs: tuple[tuple[str, InputPicture], ...] = ()
    """The inputs of the prompt's images: the kind of each picture, and the picture."""
    place: int = 0
    """The prompt's number in its run."""


def prompt_grids(scored: ScoredRun) -> list[PromptGrid]:
    """Grids of the first prompts, by base model and prompts; a grid without any image is left out.

    So many prompts that MOST_EMBEDDED are shown, and at least one, at most PROMPTS. Of several images of a prompt the
    first is shown.
    """
    grids, count = [], max(1, min(PROMPTS, MOST_EMBEDDED // max(1, len(scored.images))))
    groups: dict[tuple[str, Hashable], list[ScoredCell]] = {}
    for scored_cell in scored.images:
        cell = scored_cell.record.cell
        if not cell.cost_only:
            groups.setdefault((cell.base.name, scored_cell.prompts), []).append(scored_cell)
    for (model, _), own in groups.items():
        store, run = scored.home_of(own[0])
        each = run.images_per_prompt
        steps, series = tuple(sorted({s.record.cell.steps for s in own})), to_series(scored.run, own)
        for row, prompt in enumerate(run.prompts[::each][:count]):
            rows = []
            for line in series:
                paths = {s.record.cell.steps: Picture(scored.home_of(s)[0], s.record, row * each) for s in line.cells}
                rows.append((line.label, tuple(p if (p := paths.get(n)) and p.exists() else None for n in steps)))
            if any(path for _, paths in rows for path in paths):
                task = own[0].record.cell.task
                inputs = tuple(input_pictures(store, task.kind, row))
                grids.append(PromptGrid(model, prompt, steps, tuple(rows), task.settings.get("frames", 1), inputs, row))
    return grids


def films(grids: Sequence[PromptGrid]) -> dict[str, bytes]:
    """Return each video that is shown as an animation, by the name of its file."""
    return {
        f"films/{picture.record.key}-{picture.row:05d}.gif": to_gif(picture, grid.frames)
        for grid in grids
        if grid.frames > 1
        for picture in (picture for _, row in grid.rows for picture in row if picture)
    }


def draw_grid(grids: Sequence[PromptGrid], size: int = 96, across: int = 3) -> Image.Image:
    """One picture of all grids, each image scaled to `size` pixels, prompts written above."""
    import matplotlib  # slow to import; provides a font

    font = ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", 11)
    label_width, head, gap = 190, 42, 18
    widths = [label_width if i % across == 0 else 0 for i in range(len(grids))]
    blocks = [_draw_block(grid, size, width, head, font) for grid, width in zip(grids, widths, strict=True)]
    lines = [blocks[i : i + across] for i in range(0, len(blocks), across)]
    width = max(sum(block.width + gap for block in line) for line in lines)
    picture = Image.new("RGB", (width, sum(max(b.height for b in line) + gap for line in lines)), "white")
    y = 0
    for line in lines:
        x = 0
        for block in line:
            picture.paste(block, (x, y))
            x += block.width + gap
        y += max(block.height for block in line) + gap
    return picture


def _draw_block(grid: PromptGrid, size: int, label_width: int, head: int, font: ImageFont.FreeTypeFont) -> Image.Image:
    columns, lines = max(len(grid.steps), len(grid.inputs)), len(grid.rows) + bool(grid.inputs)
    given = (size + 16) * bool(grid.inputs)
    height = head + lines * (size + 2) + 16 * bool(grid.inputs)
    block = Image.new("RGB", (label_width + columns * (size + 2), height), "white")
    draw = ImageDraw.Draw(block)
    letters = (block.width - label_width) // 7
    for line, text in enumerate(textwrap.wrap(grid.prompt, letters, max_lines=2, placeholder=" …")):
        draw.text((label_width, 13 * line), text, "black", font)
    for column, (said, picture) in enumerate(grid.inputs):
        x = label_width + column * (size + 2)
        draw.text((x, head - 15), said, "#555555", font)
        block.paste(open_picture(picture).resize((size, size), Image.Resampling.LANCZOS), (x, head))
    head += given
    for column, steps in enumerate(grid.steps):
        draw.text((label_width + column * (size + 2), head - 15), f"{steps} steps", "#555555", font)
    for row, (label, paths) in enumerate(grid.rows):
        y = head + row * (size + 2)
        if label_width:
            draw.text((0, y + size // 2 - 14), textwrap.fill(label, label_width // 7), "black", font)
        for column, path in enumerate(paths):
            if path is not None:
                image = open_picture(path, grid.frames).resize((size, size), Image.Resampling.LANCZOS)
                block.paste(image, (label_width + column * (size + 2), y))
    return block
