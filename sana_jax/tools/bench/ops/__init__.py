"""Speed of single ops: kernels against plain XLA and PyTorch."""
