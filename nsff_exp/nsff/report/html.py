"""HTML pages in one file each: pictures and videos are embedded as data URLs.

The layout is the template `page.html.j2`, which escapes every text.
"""

import base64
import dataclasses
from pathlib import Path
from typing import ClassVar

import cv2
import imageio.v3 as iio

from nsff.io import Image, atomic_write
from nsff.templates import templates_of

MAX_PICTURE_WIDTH = 480  # pixels; wider pictures are reduced before they are embedded

_TEMPLATES = templates_of(Path(__file__).parent)


@dataclasses.dataclass(frozen=True)
class Heading:
    kind: ClassVar = "heading"
    text: str
    level: int


@dataclasses.dataclass(frozen=True)
class Paragraph:
    kind: ClassVar = "paragraph"
    text: str
    small: bool


@dataclasses.dataclass(frozen=True)
class Link:
    kind: ClassVar = "link"
    text: str
    target: str


@dataclasses.dataclass(frozen=True)
class Table:
    kind: ClassVar = "table"
    header: list[str]
    rows: list[list[str]]
    sentences: bool


@dataclasses.dataclass(frozen=True)
class Pictures:
    kind: ClassVar = "pictures"
    addresses: dict[str, str]  # data URL by caption


@dataclasses.dataclass(frozen=True)
class Videos:
    kind: ClassVar = "videos"
    addresses: dict[str, str]  # data URL by caption


@dataclasses.dataclass(frozen=True)
class Plot:
    kind: ClassVar = "plot"
    text: str
    address: str


@dataclasses.dataclass(frozen=True)
class Frame:
    kind: ClassVar = "frame"
    text: str
    target: str


Block = Frame | Heading | Paragraph | Link | Table | Pictures | Videos | Plot


@dataclasses.dataclass
class Page:
    """A page that is built block by block, from top to bottom."""

    title: str
    blocks: list[Block] = dataclasses.field(default_factory=list)

    def heading(self, text: str, level: int = 2) -> None:
        self.blocks.append(Heading(text, level))

    def text(self, text: str, small: bool = False) -> None:
        self.blocks.append(Paragraph(text, small))

    def link(self, text: str, target: str) -> None:
        """Add a link to a file in the folder of the page."""
        self.blocks.append(Link(text, target))

    def frame(self, text: str, target: str) -> None:
        """Show another page of the folder within the page, and link it."""
        self.blocks.append(Frame(text, target))

    def table(self, rows: list[list[str]], sentences: bool = False) -> None:
        """Add a table whose first row is the header; `sentences` aligns cells for text rather than numbers."""
        self.blocks.append(Table(rows[0], rows[1:], sentences))

    def pictures(self, pictures: dict[str, Image]) -> None:
        """Add pictures by their caption, four in a row."""
        self.blocks.append(Pictures({caption: jpeg_url(picture) for caption, picture in pictures.items()}))

    def videos(self, videos: dict[str, Path]) -> None:
        """Add mp4 files by their caption; they play in a loop."""
        addresses = {caption: data_url("video/mp4", path.read_bytes()) for caption, path in videos.items()}
        self.blocks.append(Videos(addresses))

    def plot(self, png: bytes, text: str) -> None:
        """Add a png with an alternative text, at its own size."""
        self.blocks.append(Plot(text, data_url("image/png", png)))

    def write(self, path: Path) -> None:
        """Write the page to a file, atomically."""
        page = _TEMPLATES.get_template("page.html.j2").stream(title=self.title, blocks=self.blocks)
        with atomic_write(path) as partial:
            page.dump(str(partial), encoding="utf-8")


def jpeg_url(picture: Image) -> str:
    """Encode a picture, reduced to `MAX_PICTURE_WIDTH`, as the data URL of a jpeg."""
    height, width = picture.shape[:2]
    if width > MAX_PICTURE_WIDTH:
        size = MAX_PICTURE_WIDTH, round(height * MAX_PICTURE_WIDTH / width)
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return data_url("image/jpeg", iio.imwrite("<bytes>", picture, extension=".jpg", quality=85))


def data_url(media_type: str, content: bytes) -> str:
    """Encode a file as a URL that holds its content."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
