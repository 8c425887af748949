"""Networks: the published ones, a small modern one, and pretrained backbones."""
