"""Architectures that timm lacks: T2T-ViT, PatchConvNet, attention pooling, and CNNs that only torchvision has."""
