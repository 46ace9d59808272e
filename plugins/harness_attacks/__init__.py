"""Adversarial attacks: FGSM, PGD, MI-FGSM and the adversarial patch, and every attack of torchattacks by name."""
