"""One page with the pictures of a prepared scene: open it in a browser, nothing else is needed."""

import base64
import html
import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from nsff.io import write_text
from nsff.prep.poses_bounds import Cameras, load_cameras
from nsff.scene_folder import SceneFolder

SHEETS = (
    ("disparity.jpg", "Frames and disparity (bright = near)"),
    ("multiview.jpg", "Depth from neighbours: in red what moves; then what was filled in"),
    ("flow_and_masks.jpg", "Frame, optical flow, in red where it is inconsistent, in red what moves"),
)
STYLE = "body{font-family:sans-serif;margin:2em auto;max-width:1000px;color:#222}img{max-width:100%}li{margin:.3em 0}"


def camera_path(cameras: Cameras) -> Figure:
    """The cameras from above and from the side, in the units of the reconstruction."""
    rotation = cameras.w2c[:, :, :3]
    centres = -np.einsum("nji,nj->ni", rotation, cameras.w2c[:, :, 3])
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    for axes, (a, b, title) in zip(figure.subplots(1, 2), ((0, 2, "from above"), (0, 1, "from behind")), strict=True):
        axes.plot(centres[:, a], centres[:, b], "-", color="0.7")
        axes.scatter(centres[:, a], centres[:, b], c=np.arange(len(centres)), cmap="viridis", s=16)
        axes.set_title(f"camera path {title} (dark = first)")
        axes.set_aspect("equal", adjustable="datalim")
        if b == 1:
            axes.invert_yaxis()
    return figure


def write_page(folder: SceneFolder, lines: list[str]) -> Path:
    """Write `prepared.html` with the given lines, the camera path and the sheets; returns its path."""
    picture = io.BytesIO()
    camera_path(load_cameras(folder)).savefig(picture, format="png", dpi=90)
    parts = [_image(picture.getvalue(), "png", "Camera path")]
    for name, title in SHEETS:
        path = folder.root / "sheets" / name
        if path.is_file():
            parts.append(f"<h2>{html.escape(title)}</h2>" + _image(path.read_bytes(), "jpeg", title))
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    title = html.escape(folder.root.absolute().parent.name)
    text = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{STYLE}</style>"
        f"<h1>{title}</h1><ul>{items}</ul>{''.join(parts)}</html>\n"
    )
    path = folder.root / "prepared.html"
    write_text(path, text)
    return path


def _image(data: bytes, kind: str, text: str) -> str:
    return f'<img alt="{html.escape(text)}" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'
