"""Point clouds of PLY files: the positions of their vertices."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from nsff.io import read_or_raise

TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
BYTE_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">"}
END_OF_HEADER = b"end_header"


def read_ply_points(path: Path) -> Float[np.ndarray, "m 3"]:
    """Positions of the vertices, which must be the first element of the file; ascii or binary.

    Raises:
        InputError: the file is missing, cut off or holds no vertices.
    """
    return read_or_raise(path, lambda: _parse(path.read_bytes()))


def _parse(data: bytes) -> Float[np.ndarray, "m 3"]:
    header, found, rest = data.partition(END_OF_HEADER)
    lines = [line.split() for line in header.decode("ascii", "replace").splitlines() if line.strip()]
    if not found or lines[0] != ["ply"]:
        raise ValueError("no PLY header")
    file_format = next(words[1] for words in lines if words[0] == "format")
    elements = [words for words in lines if words[0] == "element"]
    if elements[0][1] != "vertex":
        raise ValueError(f"its first element is {elements[0][1]}, not vertex")
    start = lines.index(elements[0]) + 1
    end = lines.index(elements[1]) if len(elements) > 1 else len(lines)
    fields = [words for words in lines[start:end] if words[0] == "property"]
    names, n_points = [words[-1] for words in fields], int(elements[0][2])
    body = rest[rest.index(b"\n") + 1 :]
    if file_format == "ascii":
        rows = np.array([line.split() for line in body.decode("ascii").splitlines()[:n_points]], np.float64)
        points = np.stack([rows[:, names.index(axis)] for axis in "xyz"], axis=1)
    else:
        record = np.dtype([(words[-1], BYTE_ORDERS[file_format] + TYPES[words[1]]) for words in fields])
        vertices = np.frombuffer(body, record, n_points)
        points = np.stack([vertices[axis].astype(np.float64) for axis in "xyz"], axis=1)
    if len(points) < n_points:
        raise ValueError(f"{len(points)} of {n_points} vertices")
    return points[np.isfinite(points).all(axis=1)]
