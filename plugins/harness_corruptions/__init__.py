"""Common corruptions: the 15 of ImageNet-C and 4 more, native and by the reference package, and their mCE."""
