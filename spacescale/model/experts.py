"""Feed-forward experts stored as stacked tensors.

Shapes: R rows, E experts, D dim, H hidden width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spacescale.model.layers import product_dtype

HOPPER = 9  # compute capability of H100 and H200, major number


def has_grouped_product(device: torch.device) -> bool:
    """Whether a device multiplies groups of rows by a matrix each at once, and rightly so.

    Hopper does. On Blackwell a group without rows gets a gradient of whatever was in memory
    (pytorch/pytorch#172439); on other devices torch itself runs a loop, or has none.
    """
    if device.type != "cuda" or not hasattr(F, "grouped_mm"):
        return False
    return torch.cuda.get_device_capability(device)[0] == HOPPER


class StackedExperts(nn.Module):
    """E two-layer ReLU experts D → H → D with biases, applied to rows sorted by expert.

    The parameters are named after the three tensors that DeepSpeed's expert-parallel checkpoints
    know: w1 (E, H, D), w2 (E, D, H), and w3 (E, 1, H + D), which holds both biases.
    """

    def __init__(self, num_experts: int, dim: int, hidden: int, dropout: float, out_dropout: bool):
        super().__init__()
        self.dim, self.hidden = dim, hidden
        bound_in, bound_out = dim**-0.5, hidden**-0.5
        self.w1 = nn.Parameter(torch.empty(num_experts, hidden, dim).uniform_(-bound_in, bound_in))
        self.w2 = nn.Parameter(
            torch.empty(num_experts, dim, hidden).uniform_(-bound_out, bound_out)
        )
        self.w3 = nn.Parameter(
            torch.cat(
                [
                    torch.empty(num_experts, 1, hidden).uniform_(-bound_in, bound_in),
                    torch.empty(num_experts, 1, dim).uniform_(-bound_out, bound_out),
                ],
                dim=2,
            )
        )
        self.hidden_dropout = nn.Dropout(dropout)
        self.out_dropout = nn.Dropout(dropout if out_dropout else 0.0)

    @property
    def num_experts(self) -> int:
        """Experts held here (all of them, or this process's share)."""
        return self.w1.shape[0]

    def forward(self, rows: Tensor, counts: Tensor) -> Tensor:
        """(R, D) rows, the first counts[0] for expert 0 and so on → (R, D). counts (E,) int64.

        Where a grouped product is taken, the host does not wait to learn the counts.
        """
        whole_16_bytes = self.dim % 8 == 0 and self.hidden % 8 == 0
        bf16 = product_dtype(rows, self.w1) == torch.bfloat16
        grouped = bf16 and whole_16_bytes and len(rows) > 0 and has_grouped_product(rows.device)
        run = self._run_grouped if grouped else self._run_in_turn
        return self.out_dropout(run(rows, counts))

    def _run_in_turn(self, rows: Tensor, counts: Tensor) -> Tensor:
        rows = rows.to(self.w1.dtype)  # of weights kept in 16 bits
        bias_in, bias_out = self.w3[:, 0].split([self.hidden, self.dim], dim=1)
        # Taken one by one with [expert], each gradient would be a full stack of zeros but for one.
        stacks = (self.w1.unbind(), bias_in.unbind(), self.w2.unbind(), bias_out.unbind())
        outputs = []
        for chunk, w1, b1, w2, b2 in zip(rows.split(counts.tolist()), *stacks, strict=True):
            h = self.hidden_dropout(F.relu(F.linear(chunk, w1, b1)))
            outputs.append(F.linear(h, w2, b2))
        return torch.cat(outputs)

    def _run_grouped(self, rows: Tensor, counts: Tensor) -> Tensor:
        bf16 = torch.bfloat16
        ends = counts.to(rows.device, non_blocking=True).cumsum(0).to(torch.int32)
        places = torch.arange(len(rows), device=rows.device)
        # (R, E), 1 at a row's expert: products by it add its bias to each row, and add up the
        # bias' gradient in fp32. Biases taken by index would have theirs added up in bf16.
        before = F.pad(ends[:-1], (1, 0))
        own = ((places[:, None] >= before) & (places[:, None] < ends)).to(bf16)
        bias_in, bias_out = self.w3[:, 0].to(bf16).split([self.hidden, self.dim], dim=1)
        h = torch.addmm(F.grouped_mm(rows.to(bf16), self.w1.to(bf16).mT, offs=ends), own, bias_in)
        h = self.hidden_dropout(F.relu(h))
        return torch.addmm(F.grouped_mm(h, self.w2.to(bf16).mT, offs=ends), own, bias_out)
