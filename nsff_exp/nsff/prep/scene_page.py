"""HTML page with the contact sheets of a prepared scene, in one file."""

import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from nsff.prep.poses_bounds import Cameras, load_cameras
from nsff.report.html import Page, Plot, data_url
from nsff.scene_folder import SceneFolder

CONTACT_SHEETS = {  # title by file name
    "disparity.jpg": "Frames and disparity (bright = near)",
    "multiview.jpg": "Multi-view depth: moving pixels in red; filled-in pixels in red",
    "flow_and_masks.jpg": "Frame; optical flow; inconsistent flow in red; motion mask in red",
}


def plot_camera_path(cameras: Cameras) -> Figure:
    """Plot the camera centres from above and from behind, in the units of the reconstruction."""
    centres = -np.einsum("nji,nj->ni", cameras.w2c[:, :, :3], cameras.w2c[:, :, 3])
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
    """Write `prepared.html` with summary lines, the camera path and the contact sheets that exist.

    Returns:
        The path of the page.
    """
    page = Page(folder.root.absolute().parent.name)
    for line in lines:
        page.text(line)
    plot = io.BytesIO()
    plot_camera_path(load_cameras(folder)).savefig(plot, format="png", dpi=90)
    page.plot(plot.getvalue(), "Camera path")
    for name, title in CONTACT_SHEETS.items():
        path = folder.root / "sheets" / name
        if path.is_file():
            page.heading(title)
            page.blocks.append(Plot(title, data_url("image/jpeg", path.read_bytes())))  # legible at its own size only
    path = folder.root / "prepared.html"
    page.write(path)
    return path
