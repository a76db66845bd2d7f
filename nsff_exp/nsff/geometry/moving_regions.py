"""Regions of moving pixels, each of one smooth motion, and their tracks through the frames. Not part of the paper.

Things that touch in the picture are one connected region, but rarely move alike: a region is cut where its flow jumps.
Errors of flow cut things apart as well; parts that have come from one region and go on into one are joined again.
"""

import dataclasses
from collections.abc import Sequence

import cv2
import numpy as np
import scipy.ndimage
import scipy.sparse
from jaxtyping import Bool, Float, Int, Shaped

from nsff.io import Flow, Mask

MIN_REGION_FRACTION = 0.001  # Of the frame; smaller regions are not tracked.
MIN_PART_FRACTION = 0.002  # Of the frame; smaller parts of a region join the nearest larger one.
MAX_FLOW_STEP = 0.6  # Pixels between neighbours; above it, a region is cut. Things that turn or come nearer stay below.
HOPS = 3  # Frames before and after that decide whether parts belong together.
JOIN_ROUNDS = 3  # Joining parts in one frame lets those of its neighbours be joined.
MIN_LINKED_FRACTION = 0.5  # Of the pixels of a region that must flow into the next region of its track.
MIN_POINTS = 8  # A track ends where fewer points have consistent flow.


@dataclasses.dataclass(frozen=True)
class MovingFlow:
    """The moving pixels of a frame and their flow, in the order of `np.nonzero`.

    Attributes:
        moving: the pixels.
        flows: flow of each to the frames before (-1) and after (1), as far as there are; pixels (right, down).
        trusted: whether each of these flows is consistent with the flow back.
    """

    moving: Mask
    flows: dict[int, Float[np.ndarray, "m 2"]]
    trusted: dict[int, Bool[np.ndarray, " m"]]


def label_regions(moving: Mask) -> Int[np.ndarray, "H W"]:
    """Number the connected regions of a mask from 1 on; 0 = outside."""
    return cv2.connectedComponents(moving.astype(np.uint8), connectivity=8)[1]


def dense(moving: Mask, values: Shaped[np.ndarray, "m ..."]) -> Shaped[np.ndarray, "H W ..."]:
    """Values of the moving pixels as an image; 0 at other pixels."""
    image = np.zeros((*moving.shape, *values.shape[1:]), values.dtype)
    image[moving] = values
    return image


@dataclasses.dataclass(frozen=True)
class MovingRegions:
    """The moving regions of all frames.

    Attributes:
        frames: moving pixels and their flow.
        labels: region of each moving pixel of a frame, from 1 on without gaps.
    """

    frames: Sequence[MovingFlow]
    labels: tuple[Int[np.ndarray, " _"], ...]

    @staticmethod
    def of(frames: Sequence[MovingFlow]) -> "MovingRegions":
        """Cut the connected regions of all frames where their flow jumps, and join parts that move together."""
        regions = MovingRegions(frames, tuple(_cut(frame) for frame in frames))
        for _ in range(JOIN_ROUNDS):
            joined = MovingRegions(frames, tuple(regions._join(index) for index in range(len(frames))))
            unchanged = all(map(np.array_equal, joined.labels, regions.labels))
            regions = joined
            if unchanged:
                break
        return regions

    def image(self, frame: int) -> Int[np.ndarray, "H W"]:
        """Labels of a frame; 0 at pixels that do not move."""
        return dense(self.frames[frame].moving, self.labels[frame])

    def _join(self, index: int) -> Int[np.ndarray, " m"]:
        """Join the parts of each connected region that flow into one region in most of the frames nearby."""
        labels, moving = self.labels[index], self.frames[index].moving
        joined, region_of = np.arange(labels.max(initial=0) + 1), np.zeros(labels.max(initial=0) + 1, int)
        region_of[labels] = label_regions(moving)[moving]
        destinations = [*self._destinations(index, -1), *self._destinations(index, 1)]
        for first, second in zip(*np.nonzero(np.triu(region_of[:, None] == region_of, k=1)), strict=True):
            ends = [(where[first], where[second]) for where in destinations if where[first] and where[second]]
            if 2 * sum(one == other for one, other in ends) > len(ends):
                joined[joined == joined[second]] = joined[first]
        return np.unique(joined[labels], return_inverse=True)[1].reshape(-1) + 1

    def _destinations(self, index: int, step: int) -> list[Int[np.ndarray, " regions"]]:
        """Region of each frame nearby into which most of a region's pixels flow, by its label; 0 = unknown."""
        points = np.argwhere(self.frames[index].moving)[:, ::-1].astype(np.float64)
        labels, found = self.labels[index], []
        for hop in range(min(HOPS, index if step < 0 else len(self.frames) - 1 - index)):
            frame = self.frames[index + hop * step]
            flow, trusted = dense(frame.moving, frame.flows[step]), dense(frame.moving, frame.trusted[step])
            points, labels = _inside(points, labels, trusted)
            points = points + flow[tuple(np.rint(points).astype(int).T[::-1])]
            image = self.image(index + (hop + 1) * step)
            points, labels = _inside(points, labels, image > 0)
            ends = image[tuple(np.rint(points).astype(int).T[::-1])]
            found.append(_most_frequent(labels, ends, int(self.labels[index].max(initial=0)) + 1))
        return found


def _inside(
    points: Float[np.ndarray, "n 2"], labels: Int[np.ndarray, " n"], mask: Mask
) -> tuple[Float[np.ndarray, "m 2"], Int[np.ndarray, " m"]]:
    """Keep the points (right, down) whose nearest pixel is in a mask."""
    right, down = np.rint(points).astype(int).T
    kept = (right >= 0) & (right < mask.shape[1]) & (down >= 0) & (down < mask.shape[0])
    kept[kept] = mask[down[kept], right[kept]]
    return points[kept], labels[kept]


def _most_frequent(
    labels: Int[np.ndarray, " n"], ends: Int[np.ndarray, " n"], n_labels: int
) -> Int[np.ndarray, " regions"]:
    """Most frequent end of each label; 0 where fewer than `MIN_POINTS` have it."""
    counts = np.zeros((n_labels, ends.max(initial=0) + 1), np.int64)
    np.add.at(counts, (labels, ends), 1)
    return np.where(counts.max(axis=1) >= MIN_POINTS, counts.argmax(axis=1), 0)


def _cut(frame: MovingFlow) -> Int[np.ndarray, " m"]:
    """Labels of the parts of connected regions between jumps of the flow to either neighbour."""
    moving, n_pixels = frame.moving, int(frame.moving.sum())
    index = dense(moving, np.arange(n_pixels))
    flows = [dense(moving, flow) for flow in frame.flows.values()]
    pairs = []
    for here, there in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[1:], np.s_[:-1])):
        smooth = moving[here] & moving[there]
        for flow in flows:
            smooth &= np.linalg.norm(flow[here] - flow[there], axis=-1) <= MAX_FLOW_STEP
        pairs.append(np.stack([index[here][smooth], index[there][smooth]]))
    rows, columns = np.concatenate(pairs, axis=1)
    graph = scipy.sparse.coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(n_pixels, n_pixels))
    parts = scipy.sparse.csgraph.connected_components(graph, directed=False)[1]
    large = np.bincount(parts, minlength=1) >= MIN_PART_FRACTION * moving.size
    seeds = dense(moving, np.where(large[parts], parts + 1, 0) if n_pixels else parts)
    labels, connected = np.zeros_like(seeds), label_regions(moving)
    for region, box in enumerate(scipy.ndimage.find_objects(connected), start=1):
        inside = connected[box] == region
        own_seeds = seeds[box] * inside
        if len(np.unique(own_seeds[own_seeds > 0])) < 2:
            labels[box][inside] = n_pixels + region  # one part
        else:
            rest = own_seeds == 0
            nearest = scipy.ndimage.distance_transform_edt(rest, return_distances=False, return_indices=True)
            labels[box][inside] = own_seeds[tuple(nearest)][inside]
    return np.unique(labels[moving], return_inverse=True)[1].reshape(-1) + 1


@dataclasses.dataclass(frozen=True)
class Track:
    """A moving region through consecutive frames.

    Attributes:
        start: index of its first frame.
        labels: its label in `MovingRegions` of each frame.
    """

    start: int
    labels: list[int]

    def shows(self, frame: int) -> bool:
        """Whether the track extends to a frame."""
        return self.start <= frame < self.start + len(self.labels)

    def label(self, frame: int) -> int:
        """Label of the region in a frame that it extends to."""
        return self.labels[frame - self.start]


@dataclasses.dataclass(frozen=True)
class RegionStep:
    """Flow of the moving pixels of a frame into an adjacent one.

    Attributes:
        labels: regions of the frame.
        flow: flow to the adjacent frame.
        trusted: moving pixels whose flow is consistent.
        targets: label of the adjacent frame's region into which each trusted pixel flows; else 0.
    """

    labels: Int[np.ndarray, "H W"]
    flow: Flow
    trusted: Mask
    targets: Int[np.ndarray, "H W"]


def follow(regions: MovingRegions, index: int, step: int) -> RegionStep:
    """Follow the moving pixels of a frame into the one before (-1) or after (1)."""
    frame = regions.frames[index]
    height, width = frame.moving.shape
    flow, trusted = (dense(frame.moving, values[step]) for values in (frame.flows, frame.trusted))
    rows, columns = np.nonzero(trusted)
    x, y = np.rint(np.stack([columns, rows]) + flow[rows, columns].T).astype(int)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    targets = np.zeros((height, width), np.int32)
    targets[rows[inside], columns[inside]] = regions.image(index + step)[y[inside], x[inside]]
    return RegionStep(regions.image(index), flow, trusted, targets)


def link_regions(regions: MovingRegions) -> list[Track]:
    """Link the moving regions of consecutive frames into tracks.

    A region continues in the one into which most of its pixels flow. Of several that flow into the same one, that with
    most pixels continues and the others end; the lesser parts of a region that splits begin new tracks.

    Args:
        regions: of all frames of the video.

    Returns:
        All tracks, those of a single frame included. Each region that is large enough is in one track.
    """
    minimum = MIN_REGION_FRACTION * regions.frames[0].moving.size
    tracks: list[Track] = []
    open_tracks: dict[int, Track] = {}  # by label in the frame at hand
    for index, labels in enumerate(regions.labels):
        areas = np.bincount(labels, minlength=1)
        continued = {}
        if index > 0:
            links = _links(follow(regions, index - 1, 1), list(open_tracks))
            continued = {new: open_tracks[old] for old, new in links.items() if areas[new] >= minimum}
        for label, track in continued.items():
            track.labels.append(label)
        for label in range(1, len(areas)):
            if label not in continued and areas[label] >= minimum:
                continued[label] = Track(index, [label])
                tracks.append(continued[label])
        open_tracks = continued
    return tracks


def _links(step: RegionStep, labels: list[int]) -> dict[int, int]:
    """Match regions to those of the next frame; each at most once."""
    candidates = []
    for label in labels:
        region = step.labels == label
        votes = np.bincount(step.targets[region], minlength=2)
        votes[0] = 0  # outside of all regions
        best = int(votes.argmax())
        # Only trusted pixels vote: where they are few, there is no flow to measure by either.
        if votes[best] >= max(MIN_POINTS, MIN_LINKED_FRACTION * step.trusted[region].sum()):
            candidates.append((int(votes[best]), label, best))
    links: dict[int, int] = {}
    for _, label, best in sorted(candidates, reverse=True):
        if best not in links.values():
            links[label] = best
    return links
