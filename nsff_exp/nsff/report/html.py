"""HTML pages that hold all their pictures and videos: one file, which any browser opens, also years later."""

import base64
import dataclasses
import html
from pathlib import Path

import cv2
import imageio.v3 as iio

from nsff.io import Image, atomic_write

WIDEST = 480  # pixels of a picture on a page

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1500px; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .2rem .8rem; text-align: right }
th { border-bottom: 2px solid #888 } td:first-child, th:first-child { text-align: left }
table.words td, table.words th { text-align: left; vertical-align: top } h2 { margin: 2rem 0 .5rem }
.row { display: grid; grid-template-columns: repeat(4, 1fr); gap: 4px; margin: .3rem 0 1.2rem }
.videos { display: flex; flex-wrap: wrap; gap: 1rem } figure { margin: 0; max-width: 100% }
.videos video { height: 270px }
.row img, .row video { width: 100%; display: block } img, video { max-width: 100%; display: block }
h3 { margin: 0; font-size: 1rem } .small, figcaption { color: #666 }
"""


@dataclasses.dataclass
class Page:
    """A page that grows from the top; texts are escaped."""

    title: str
    parts: list[str] = dataclasses.field(default_factory=list)

    def heading(self, text: str, level: int = 2) -> None:
        self.parts.append(f"<h{level}>{html.escape(text)}</h{level}>")

    def text(self, text: str, small: bool = False) -> None:
        self.parts.append(f"<p{' class=small' if small else ''}>{html.escape(text)}</p>")

    def table(self, rows: list[list[str]], words: bool = False) -> None:
        """The first row is its head; `words`: cells hold sentences rather than figures."""
        lines = []
        for row, tag in ((row, "td" if index else "th") for index, row in enumerate(rows)):
            lines.append("<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>")
        self.parts.append(f"<table{' class=words' if words else ''}>{''.join(lines)}</table>")

    def pictures(self, pictures: dict[str, Image]) -> None:
        """Side by side, four in a row, with captions."""
        tags = {name: f"<img loading=lazy alt='' src='{embedded_picture(each)}'>" for name, each in pictures.items()}
        self._figures("row", tags)

    def plot(self, png: bytes, text: str) -> None:
        self.parts.append(f"<img alt='{html.escape(text)}' src='{_data('image/png', png)}'>")

    def videos(self, videos: dict[str, Path]) -> None:
        """mp4 files that play in a loop, with captions."""
        how = "autoplay loop muted playsinline controls"
        tags = {
            name: f"<video {how} src='{_data('video/mp4', path.read_bytes())}'></video>"
            for name, path in videos.items()
        }
        self._figures("videos", tags)

    def _figures(self, style: str, tags: dict[str, str]) -> None:
        shown = (
            f"<figure>{tag}<figcaption>{html.escape(caption)}</figcaption></figure>" for caption, tag in tags.items()
        )
        self.parts.append(f"<div class={style}>{''.join(shown)}</div>")

    def link(self, text: str, target: str) -> None:
        """To a file beside the page."""
        self.parts.append(f"<p><a href='{html.escape(target)}'>{html.escape(text)}</a></p>")

    def write(self, path: Path) -> None:
        """The page, whole or not at all."""
        head = (
            "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
            f"<title>{html.escape(self.title)}</title><style>{STYLE}</style><h1>{html.escape(self.title)}</h1>"
        )
        with atomic_write(path) as partial:
            partial.write_text("\n".join([head, *self.parts]) + "\n</html>\n", encoding="utf-8")


def embedded_picture(picture: Image) -> str:
    """A picture as the address of itself."""
    height, width = picture.shape[:2]
    if width > WIDEST:
        picture = cv2.resize(picture, (WIDEST, round(height * WIDEST / width)), interpolation=cv2.INTER_AREA)
    return _data("image/jpeg", iio.imwrite("<bytes>", picture, extension=".jpg", quality=85))


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
