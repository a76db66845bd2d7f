"""Preparation: from a video to the files of a scene."""

# Before pycolmap and cv2: pycolmap 4.2.1 brings a zlib of its own, and where that is the first one loaded, cv2
# (opencv-python 5.0.0) aborts the process when it writes a png ("free(): invalid pointer").
import zlib  # noqa: F401
