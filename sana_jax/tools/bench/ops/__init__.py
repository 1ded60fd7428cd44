"""Speed of single operations: kernels beside plain XLA and PyTorch."""
