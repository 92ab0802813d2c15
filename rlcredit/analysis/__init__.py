"""Analysis: the paper's own measurements (arXiv 2510.13554, section 4), on any model."""
