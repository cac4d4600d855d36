"""The paper's network (Section 2.3), Gabor kernels (2.1) and losses (2.2), and the files that keep them."""
