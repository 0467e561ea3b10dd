"""How a step's time divides over the parts of the model, ours or the released one."""

import re
import time
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

STAGES = {
    "stem": r"(model\.)?stem",
    "conv_tower": r"(model\.)?conv_tower\.\d+",
    "attention": r"(model\.transformer\.)?transformer\.\d+\.attention",
    "species_moe": r"(model\.transformer\.)?transformer\.\d+\.(moe|feed_forward)",
    "pointwise": r"(model\.final_)?pointwise",
    "heads": r"(model\.)?heads\.\w+",
    "decoder": r"(model\.tracks|decoder)",
}


class StageClock:
    """Notes when each stage begins, forwards and backwards; the time until the next is its own.

    A stage's backward pass begins when the gradient of its output is there.
    """

    def __init__(self, model: nn.Module, device: torch.device):
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self.stage, self.since = "other", time.perf_counter()
        for name, module in model.named_modules():
            for stage, pattern in STAGES.items():
                if re.fullmatch(pattern, name):
                    self._watch(module, stage)

    def _watch(self, module: nn.Module, stage: str) -> None:
        def after(module: nn.Module, inputs: Any, output: Any) -> None:
            self._enter("other")
            first: Tensor = output[0] if isinstance(output, tuple) else output
            if first.requires_grad:
                first.register_hook(lambda grad: self._enter(stage))

        module.register_forward_pre_hook(lambda module, inputs: self._enter(stage))
        module.register_forward_hook(after)

    def _enter(self, stage: str) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.seconds[self.stage] += now - self.since
        self.stage, self.since = stage, now

    def shares(self) -> dict[str, float]:
        """Stage → share of the time since the first stage began."""
        self._enter("other")
        total = sum(self.seconds.values())
        return {stage: round(t / total, 3) for stage, t in sorted(self.seconds.items())}
