"""The stages that turn a video into a scene folder: the modules behind the scripts beside this package."""

import os

os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 28))  # before OpenCV: a picture that says more is refused
