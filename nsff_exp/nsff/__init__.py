"""Neural Scene Flow Fields (Li, Niklaus, Snavely, Wang, CVPR 2021, arXiv:2011.13084)."""
