"""Neural Scene Flow Fields (Li, Niklaus, Snavely, Wang, CVPR 2021, arXiv:2011.13084)."""

import os

# Before torch is there: its threads would turn in circles while they wait for each other, and keep the core that the
# other one needs. Asleep they train as fast on 2 idle cores, and twice as fast beside another busy program.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
