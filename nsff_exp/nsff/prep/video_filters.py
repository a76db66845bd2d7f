"""ffmpeg's filters that make upright, progressive SDR frames with square pixels of what a stream says it holds."""

import dataclasses

from nsff.prep.video_scan import Colours, VideoScan

HDR_TRANSFERS = {"arib-std-b67": "HLG", "smpte2084": "PQ"}
WIDE_PRIMARIES = {"bt2020": "BT.2020", "smpte431": "DCI-P3", "smpte432": "Display P3"}
# Luminance of SDR white in HDR pictures, cd/m2 (ITU-R BT.2408). Brighter highlights are clipped, so that everything
# up to white equals the SDR picture.
REFERENCE_WHITE = 203
ACCURATE = "bicubic+accurate_rnd+full_chroma_int"  # ffmpeg's default darkens RGB by 1 to 2 grey levels.
TURNS = {90: ["transpose=cclock"], 180: ["hflip", "vflip"], 270: ["transpose=clock"]}


@dataclasses.dataclass(frozen=True)
class Conversion:
    """Filters, and what they do.

    Attributes:
        before: filters that need neighbouring frames, before frames are selected.
        after: filters of single frames.
        upright: whether ffmpeg applies the display matrix before all filters.
        size: width and height of the frames.
        changes: what was converted, in words.
    """

    before: list[str]
    after: list[str]
    upright: bool
    size: tuple[int, int]
    changes: list[str]


def conversion_of(scan: VideoScan) -> Conversion:
    """Choose the filters for a video."""
    before: list[str] = []
    after: list[str] = []
    changes: list[str] = []
    upright = True
    angle = round(scan.stream.rotation / 90.0) % 4 * 90
    if scan.field_order:
        parity, first = ("tff", "top") if scan.field_order == "T" else ("bff", "bottom")
        before.append(f"bwdif=mode=send_frame:parity={parity}:deint=all")
        changes.append(f"interlaced, {first} field first, to whole frames")
        if angle:  # fields are rows of the picture as it is stored: turn it afterwards
            upright, after = False, list(TURNS[angle])
    if _has_alpha(scan.pixel_format):
        after += ["format=gbrap16", "premultiply=inplace=1"]  # 8 bits would darken opaque pixels by one level
        changes.append("transparent pixels to black")
    colour_filters, words = colour_conversion(scan.colours)
    after += colour_filters
    changes += words
    size = square_size(scan)
    if size != scan.size:
        changes.append(f"pixels of aspect {scan.aspect:.4g} to square ones, {size[0]}x{size[1]}")
    after += [f"scale={size[0]}:{size[1]}:flags={ACCURATE}", "setsar=1", "format=rgb24"]
    return Conversion(before, after, upright, size, changes)


def square_size(scan: VideoScan) -> tuple[int, int]:
    """Width and height with square pixels: stored rows keep their number, as players show them."""
    width, height = scan.size
    if scan.stream.turned:
        return width, max(2, round(height / scan.aspect))
    return max(2, round(width * scan.aspect)), height


def colour_conversion(colours: Colours) -> tuple[list[str], list[str]]:
    """Filters from the colours of a stream to SDR BT.709, and what they do; none where ffmpeg's own reading is right.

    HLG and PQ become linear light with REFERENCE_WHITE as 1, then BT.709 primaries and transfer.
    """
    hdr = HDR_TRANSFERS.get(colours.transfer)
    wide = WIDE_PRIMARIES.get(colours.primaries)
    if hdr is None and wide is None and colours.transfer != "linear":
        return [], []
    stated = []
    if colours.matrix == "unknown" and hdr:
        stated.append("min=2020_ncl")
    if colours.primaries == "unknown":
        stated.append(f"pin={'2020' if hdr else '709'}")
    if colours.transfer == "unknown":
        stated.append("tin=709")
    filters = [
        ":".join(["zscale=t=linear:filter=bicubic", f"npl={REFERENCE_WHITE if hdr else 100}", *stated]),
        "format=gbrpf32le",
        "zscale=p=709:t=bt709:m=gbr:r=full",
        "format=gbrp",
    ]
    return filters, [f"{' '.join(word for word in (hdr, wide) if word) or 'linear light'} to SDR BT.709"]


def _has_alpha(pixel_format: str) -> bool:
    return pixel_format.startswith(("yuva", "gbrap", "rgba", "bgra", "argb", "abgr", "ya8", "ya16", "pal8"))
