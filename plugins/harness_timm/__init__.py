"""Model families of timm, one plugin module a family."""
