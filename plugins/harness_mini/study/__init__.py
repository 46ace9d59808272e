"""What reproduces: predictions written down beforehand, measurements, and verdicts."""
