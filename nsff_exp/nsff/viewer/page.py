"""Write the viewer's page: layout, program and pictures in one file, or with the pictures in scripts beside it."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import cv2
import markupsafe

from nsff.errors import InputError
from nsff.io import Image, write_text
from nsff.templates import templates_of
from nsff.viewer.part import Part

HEAD_CHARACTERS = 1000  # the first of a page, within which its step is written
INLINE_MB = 20.0  # larger pages keep their pictures in a folder beside them

_TEMPLATES = templates_of(Path(__file__).parent)


def write_page(
    path: Path, folder: Path, title: str, facts: dict[str, Any], parts: dict[str, Part], still: Image, max_mb: float
) -> float:
    """Write the page.

    Args:
        path: of the page.
        folder: of the scripts of a large page; beside the page.
        title: of the page.
        facts: what the page's program must know of the scene, as JSON.
        parts: by their names.
        still: one view of the scene, where the browser cannot show the layers.
        max_mb: largest size, megabytes.

    Returns:
        The size in megabytes.

    Raises:
        InputError: it would be larger than `max_mb`.
    """
    scripts = {name: part.script(name) for name, part in parts.items()}
    megabytes = sum(map(len, scripts.values())) / 1e6
    if megabytes > max_mb:
        raise InputError(
            f"the page would have {megabytes:.1f} MB, more than --max_mb {max_mb:g}: choose fewer --planes or --times, "
            "a higher --render_factor, or a larger --max_mb"
        )
    addresses = {}
    if megabytes > INLINE_MB:  # a page from the disk may load scripts, but no other files
        for name, script in scripts.items():
            write_text(folder / f"{name}.js", script)
            addresses[name] = f"{folder.name}/{name}.js"
    jpg = cv2.imencode(".jpg", still[..., ::-1])[1].tobytes()
    page = _TEMPLATES.get_template("viewer.html.j2").render(
        title=title,
        scene=facts,
        scene_json=_verbatim(json.dumps(facts)),
        still="data:image/jpeg;base64," + base64.b64encode(jpg).decode(),
        parts=[(addresses.get(name), _verbatim(script)) for name, script in scripts.items()],
        program=_verbatim(Path(__file__).with_name("viewer.js").read_text(encoding="utf-8")),
    )
    write_text(path, page)
    return megabytes


def step_of_page(path: Path) -> int | None:
    """Training steps of the fields that a page shows; None for pages from before it was written into them."""
    with path.open(encoding="utf-8") as page:
        found = re.search(r'<meta name="training-step" content="(\d+)">', page.read(HEAD_CHARACTERS))
    return int(found[1]) if found else None


def _verbatim(script: str) -> markupsafe.Markup:
    """A script to be put into the page as it is; it cannot end its own element."""
    return markupsafe.Markup(script.replace("</", "<\\/"))
