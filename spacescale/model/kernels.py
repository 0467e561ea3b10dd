"""Which of torch's attention kernels GPUs may take, and how a bias must lie for them."""

from torch.nn.attention import SDPBackend

# Those that differentiate by the bias: flash attention takes none, and cuDNN's, which torch would
# prefer on Hopper, gives it no gradient.
GPU_KERNELS = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
GPU_ALIGNMENT = 8  # elements; the efficient kernel copies a bias whose strides are no multiples
