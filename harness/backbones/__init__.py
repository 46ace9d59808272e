"""Networks as Models: what wrapped networks of every family share, and one module for each kind of network."""
