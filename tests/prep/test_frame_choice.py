"""Which frames of a video are taken: hand values for times, rates, steps and repeated frames."""

import logging

import numpy as np
import pytest
from nsff.prep.frame_choice import FrameRange, choose_frames, find_repeated, log_choice

VARIABLE = np.concatenate([np.arange(20) / 10.0, 2.0 + np.arange(60) / 60.0])  # 20 frames in 2 s, then 60 in 1 s


def chosen(times: np.ndarray, **wish: float) -> list[int]:
    return choose_frames(times, np.zeros(len(times), bool), FrameRange(**wish)).indices


def test_all_frames_without_a_wish():
    assert chosen(np.arange(10) / 30) == list(range(10))
    assert chosen(np.zeros(0)) == []


@pytest.mark.parametrize(
    ("n_frames", "rate", "fps", "expected"),
    [
        (10, 30.0, 10.0, [0, 3, 6, 9]),
        (10, 30.0, 60.0, list(range(10))),  # never more than the video has
        (60, 29.97, 10.0, list(range(0, 60, 3))),
        (60, 23.976, 12.0, list(range(0, 60, 2))),
        (11, 25.0, 10.0, [0, 3, 5, 8, 10]),  # 2.5 apart, rounded
        (3000, 30000 / 1001, 10.0, list(range(0, 3000, 3))),  # no drift: times 0.1 s apart would skip a frame
    ],
)
def test_rate_takes_nearest_frames(n_frames, rate, fps, expected):
    assert chosen(np.arange(n_frames) / rate, fps=fps) == expected


def test_stretch_begins_with_start_and_ends_before_end():
    assert chosen(np.arange(100) / 25.0, start=1.0, end=1.2) == [25, 26, 27, 28, 29]
    assert chosen(np.arange(10) / 30.0, start=9.0) == []
    assert chosen(5.0 + np.arange(100) / 25.0, start=1.0)[0] == 25  # seconds after the first frame
    milliseconds = np.round(np.arange(90) / 30.0, 3)  # as some containers store them: 1.3333 as 1.333
    assert chosen(milliseconds, start=4 / 3)[0] == 40


def test_variable_rate_is_read_from_time_stamps():
    assert chosen(VARIABLE, start=2.0)[0] == 20
    assert chosen(VARIABLE, end=1.5) == list(range(15))
    assert chosen(VARIABLE, fps=10.0) == [*range(20), *range(20, 80, 6)]
    assert chosen(VARIABLE, fps=20.0) == [*range(20), *range(20, 80, 3)]


@pytest.mark.parametrize(
    ("n_frames", "most", "step", "count"),
    [(100, 4, 25, 4), (90, 48, 2, 45), (60, 48, 2, 30), (48, 48, 1, 48), (100, 48, 3, 34), (15, 10, 1, 10)],
)
def test_max_frames_takes_whole_steps(n_frames, most, step, count):
    choice = choose_frames(np.arange(n_frames) / 30.0, np.zeros(n_frames, bool), FrameRange(max_frames=most))
    assert choice.indices == list(range(0, step * count, step))
    assert choice.step == step


def changes_of(steps: str) -> np.ndarray:
    """Change per frame: "." = a repeat with compression noise, "m" = motion, "s" = slow motion."""
    levels = {".": 0.6, "m": 20.0, "s": 2.0}
    return np.array([0.0, *(levels[step] for step in steps)])


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ("mmm.mmm.mmm.mmm", [4, 8, 12]),  # 24 to 30 frames per second
        (".m.m.m.m.m.", [1, 3, 5, 7, 9, 11]),  # every frame twice, the first and the last too
        ("mmmmm.mmmmm", [6]),  # a frame that was lost while filming
        ("..........mmmmm", []),  # the camera stands still, then moves
        ("mmmmm..........", []),  # the other way round
        ("mmmmmmm........................mmmmmm", []),  # it pauses for 0.8 s
        ("...............", []),  # it never moves
        ("sssssss", []),  # it moves slowly
        ("ssssmmmmssss", []),
        ("m" * 11, []),
    ],
)
def test_repeated_frames(steps, expected):
    changes = changes_of(steps)
    assert np.flatnonzero(find_repeated(changes, np.arange(len(changes)) / 30.0)).tolist() == expected


def test_repeated_frames_are_left_out_and_counted(caplog):
    changes = changes_of("mmm.mmm.mmm.mmm")
    times = np.arange(len(changes)) / 30.0
    choice = choose_frames(times, find_repeated(changes, times), FrameRange())
    assert choice.indices == [0, 1, 2, 3, 5, 6, 7, 9, 10, 11, 13, 14, 15]
    assert choice.gaps is None  # the camera took them evenly, 24 per second
    log_choice(choice, timed=True)
    assert caplog.messages == ["3 repeated frames are left out"]


def test_uneven_steps_are_warned_about_with_the_remedy(caplog):
    choice = choose_frames(VARIABLE, np.zeros(80, bool), FrameRange())
    log_choice(choice, timed=True)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "the frames taken are 17 to 100 ms apart, but the method takes all steps as equal: add --fps 10"
    )
    caplog.clear()
    log_choice(choose_frames(VARIABLE, np.zeros(80, bool), FrameRange(fps=10.0)), timed=True)
    assert not caplog.records


def test_dropped_frames_are_said_with_their_step(caplog):
    log_choice(choose_frames(np.arange(90) / 30.0, np.zeros(90, bool), FrameRange(max_frames=48)), timed=True)
    assert caplog.messages == ["45 of 90 frames are taken, 2 apart (--max_frames)"]


@pytest.mark.parametrize(("timed", "stretch"), [(True, ", or take a stretch (--start, --end)"), (False, "")])
def test_very_many_frames_are_warned_about(timed, stretch, caplog):
    log_choice(choose_frames(np.arange(200) / 30.0, np.zeros(200, bool), FrameRange()), timed)
    assert not caplog.records
    log_choice(choose_frames(np.arange(3600) / 30.0, np.zeros(3600, bool), FrameRange()), timed)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "3600 frames are taken; the method was made for 20 to 60, and every stage takes longer with more: add "
        f"--max_frames 48{stretch}"
    )
