"""Datasets: a folder of labelled images, and the handwritten digits that come with scikit-learn."""
