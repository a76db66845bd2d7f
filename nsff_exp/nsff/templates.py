"""Templates of HTML pages, in which every text is escaped."""

from pathlib import Path

import jinja2


def templates_of(folder: Path) -> jinja2.Environment:
    """Templates of a folder; a name that is not given is an error."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
