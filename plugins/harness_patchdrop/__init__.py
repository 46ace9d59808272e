"""PatchDrop: images with cells of a grid blacked out (Naseer et al., arXiv 2105.10497)."""
