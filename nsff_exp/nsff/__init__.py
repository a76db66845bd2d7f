"""Neural Scene Flow Fields (Li, Niklaus, Snavely, Wang, CVPR 2021, arXiv:2011.13084)."""

import os

# Must be set before torch is imported: idle OpenMP threads otherwise busy-wait, which halves the throughput beside
# another busy program.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 28))  # before OpenCV: refuse images that claim more
