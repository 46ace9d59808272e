"""Small models, perturbations, probes and datasets that count what the engine asks of them."""
