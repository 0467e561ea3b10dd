"""Time, bytes and memory of one mixture-of-experts layer: ours and DeepSpeed's own.

    python benchmarks/expert_parallel.py --ep 1 2 4 --json results.json
    torchrun --nproc_per_node 4 benchmarks/expert_parallel.py --device cuda --precision bf16

Both layers have the same experts and are given the same routes in the same processes, must agree,
and take turns. DeepSpeed's is `deepspeed.moe.layer.MoE`, whose gate is replaced by one that hands
out the given routes. `--decoder` weighs sending the decoder's rows against keeping every expert.

Shapes: T tokens, K top-k, E experts, L local experts, D dim.
"""

import argparse
import ctypes
import json
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

import deepspeed.comm
import torch
import torch.distributed as dist
from deepspeed.moe import sharded_moe
from deepspeed.moe.layer import MoE
from model_step import now, peak_memory, start_memory
from torch import Tensor, nn

from spacescale.model import moe
from spacescale.model.experts import StackedExperts
from spacescale.model.moe import RoutedExperts
from spacescale.parallel import comm, expert_parallel
from spacescale.parallel.engine import init_distributed, leave
from spacescale.parallel.expert_parallel import ExpertParallelExperts
from spacescale.testing.ranks import run_ranks

TOLERANCE = {"fp32": 1e-5, "bf16": 2e-2}  # of outputs and gradients, against the largest
STAGES = ("routing and sorting", "exchange", "experts", "combine", "waiting")
SORT, EXCHANGE, EXPERTS, COMBINE, WAIT = STAGES
PHASES = ("forward", "backward")
COMBINES = ((expert_parallel, "combine"), (moe, "combine"), (sharded_moe, "_sparse_decode"))
TIMES = ("median_s", "min_s", "median_cpu_s", "min_cpu_s")
RATIOS = (*TIMES, "kept_bytes", "peak_bytes")
Routes = tuple[Tensor, Tensor, Tensor]  # tokens (T, D), chosen (T, K), weights (T, K)


def main() -> None:
    """Measure here under a launcher, else in as many new processes as experts are spread over."""
    args = parse_arguments()
    if "WORLD_SIZE" in os.environ or args.device == "cuda":
        init_distributed()
        sizes = [ep for ep in args.ep if comm.world_size() % ep == 0]
        found = {ep: summarise(gathered(measure(args, ep))) for ep in sizes}
        leave()
    else:
        found = {ep: summarise(run_ranks(measure, ep, args, ep)) for ep in args.ep}
    if comm.is_main():
        settings = {name: value for name, value in vars(args).items() if name != "json"}
        print(table(found))
        if args.json:
            record = {"settings": settings, "torch": torch.__version__, "ep_size": found}
            args.json.write_text(json.dumps(record, indent=2) + "\n")


def parse_arguments() -> argparse.Namespace:
    """Command line of the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--tokens", type=int, default=1537, help="per process")
    parser.add_argument("--experts", type=int, default=4)
    parser.add_argument("--top-k", type=int, default=3)
    parser.add_argument("--ep", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--repeats", type=int, default=5, help="turns of each layer")
    parser.add_argument("--skew", type=float, default=0.0, help="how much popular experts are so")
    parser.add_argument("--decoder", action="store_true", help="the decoder's rows instead")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--json", type=Path, help="write the results here")
    args = parser.parse_args()
    if args.decoder:
        args.dim, args.tokens, args.experts = 896, 5313, 8
    return args


# ---- The two layers ----------------------------------------------------------------------------


class GivenRoutes(nn.Module):
    """Stands in for DeepSpeed's gate: hands out routes chosen elsewhere and drops none."""

    def __init__(self, num_experts: int):
        super().__init__()
        self.num_experts, self.ep_group = num_experts, None

    def _set_ep_group(self, group: dist.ProcessGroup) -> None:
        self.ep_group = group

    def forward(self, x: Tensor, routes: tuple[Tensor, Tensor], *_) -> tuple:
        """What `TopKGate` returns with sparse routes and `drop_tokens` off."""
        chosen, weights = routes
        one_hot = chosen.new_zeros(len(x), self.num_experts).scatter_(1, chosen, 1)
        places, counts = one_hot.cumsum(0) - 1, one_hot.sum(0)
        capacity = counts.max()
        if dist.get_world_size(self.ep_group) > 1:
            deepspeed.comm.all_reduce(capacity, op=dist.ReduceOp.MAX, group=self.ep_group)
        routes = (
            chosen.t().contiguous().int(),
            places.gather(1, chosen).t().contiguous().int(),
            weights.t().contiguous(),
        )
        return None, capacity, self.num_experts, *routes, counts


class NativeLayer(nn.Module):
    """DeepSpeed's MoE layer with a share of our experts."""

    def __init__(self, experts: StackedExperts, ep_size: int):
        super().__init__()
        dim, hidden = experts.dim, experts.hidden
        network = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, dim))
        with redirect_stdout(StringIO()):
            self.moe = MoE(dim, network, experts.num_experts, ep_size, drop_tokens=False)
            self.moe.deepspeed_moe.gate = GivenRoutes(experts.num_experts)
            self.moe.set_deepspeed_parallelism()
        self.experts = self.moe.deepspeed_moe.experts
        first = comm.rank() % ep_size * self.experts.num_local_experts
        for i, local in enumerate(self.experts.deepspeed_experts):
            values = one_expert(*experts.parameters(), first + i)
            for own, value in zip(local.parameters(), values, strict=True):
                own.data.copy_(value.detach())

    def forward(self, x: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """Tokens (T, D), chosen experts (T, K), gate weights (T, K) → weighted sum (T, D)."""
        return self.moe(x, (chosen, weights))[0]

    def gradients(self) -> list[Tensor]:
        """Of every local expert, in the order of `one_expert`."""
        return [p.grad for p in self.experts.parameters()]


class OurLayer(ExpertParallelExperts):
    """Ours, as distributed in training."""

    def __init__(self, experts: StackedExperts, ep_size: int):
        copy = StackedExperts(experts.num_experts, experts.dim, experts.hidden, 0.0, True)
        copy.load_state_dict(experts.state_dict())
        super().__init__(copy, ep_size)
        self.set_deepspeed_parallelism()

    def gradients(self) -> list[Tensor]:
        """Of every local expert, in the order of `one_expert`."""
        stacked = [p.grad for p in self.experts.parameters()]
        return [g for i in range(self.num_local_experts) for g in one_expert(*stacked, i)]


class ReplicatedLayer(RoutedExperts):
    """All experts in every process, whose gradients are then added over the processes."""

    def __init__(self, experts: StackedExperts, ep_size: int):
        super().__init__(experts)


def one_expert(w1: Tensor, w2: Tensor, w3: Tensor, i: int) -> list[Tensor]:
    """Weights and biases of expert i, in the order of a sequence of two linear layers."""
    bias_in, bias_out = w3[i, 0].split([w1.shape[1], w2.shape[1]])
    return [w1[i], bias_in, w2[i], bias_out]


# ---- One process -------------------------------------------------------------------------------


def measure(args: argparse.Namespace, ep_size: int) -> dict[str, Any]:
    """All figures of this rank: layer → what was measured."""
    return_freed_memory()
    torch.manual_seed(0)
    device = comm.device()
    experts = StackedExperts(args.experts, args.dim, 2 * args.dim, 0.0, True)
    kinds = {"ours": OurLayer, "native": NativeLayer}
    if args.decoder:
        kinds = {"sent": OurLayer, "replicated": ReplicatedLayer}
    layers = {name: kind(experts, ep_size).to(device) for name, kind in kinds.items()}
    steps = {name: Step(layer, args, device) for name, layer in layers.items()}
    found = {name: counts_of(steps[name], args) for name in layers}
    if args.decoder:
        found["replicated"]["gradients"] = time_of_gradients(experts, device)
    else:
        check_agreement(steps, args)
    for name, step in steps.items():
        found[name] |= memory_of(step)
    comm.share_cores()  # from here on the allocator of training
    for name in repeated(layers, args.repeats):
        seconds, cpu_seconds = steps[name].timed()
        found[name].setdefault("seconds", []).append(seconds)
        found[name].setdefault("cpu_seconds", []).append(cpu_seconds)
    for name in repeated(layers, args.repeats):
        found[name].setdefault("stages", []).append(steps[name].split())
    return found


def repeated(names: dict[str, Any], repeats: int) -> Iterator[str]:
    """A B A B …"""
    for _ in range(repeats):
        yield from names


class Step:
    """Forward and backward of one layer on this rank's routes."""

    def __init__(self, layer: nn.Module, args: argparse.Namespace, device: torch.device):
        self.layer, self.device, self.bf16 = layer, device, args.precision == "bf16"
        self.routes = tuple(t.to(device) for t in routes_of(args))
        generator = torch.Generator().manual_seed(100 + comm.rank())
        self.gradient = torch.randn(args.tokens, args.dim, generator=generator).to(device)
        self.out = torch.empty(0)

    def __call__(self, between: Callable[[], None] = lambda: None) -> None:
        """One step with fresh gradients; `between` is called between its two halves."""
        self.layer.zero_grad()
        x, chosen, weights = self.routes
        x.grad = weights.grad = None
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            out = self.layer(x.requires_grad_(), chosen, weights.requires_grad_())
        between()
        out.float().backward(self.gradient)
        self.out = out.detach()

    def timed(self) -> tuple[float, float]:
        """Seconds, and processor seconds of this process."""
        dist.barrier()
        started, cpu_started = now(self.device), time.process_time()
        self()
        return now(self.device) - started, time.process_time() - cpu_started

    def split(self) -> dict[str, float]:
        """Seconds by stage."""
        meter = Meter(self.device)
        with meter.watching(self.layer):
            dist.barrier()
            meter.enter(SORT)
            meter.seconds.clear()
            self()
            meter.enter(SORT)
        return dict(meter.seconds)


def routes_of(args: argparse.Namespace) -> Routes:
    """Random tokens, experts and gate weights of this rank; all ranks favour the same experts."""
    popular = torch.randn(args.experts, generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(10 + comm.rank())
    tokens = torch.randn(args.tokens, args.dim, generator=generator)
    logits = torch.randn(args.tokens, args.experts, generator=generator) + args.skew * popular
    top, chosen = logits.topk(args.top_k)
    return tokens, chosen, top.softmax(-1)


class Meter:
    """Seconds by stage and bytes sent of one step, taken at the layer's seams.

    In the backward pass a stage begins when the gradient of its output is there.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self.bytes: dict[str, int] = defaultdict(int)
        self.phase, self.stage, self.since = "forward", SORT, now(device)

    def enter(self, stage: str) -> str:
        """Begin a stage and return the one that ends."""
        ended, time_now = self.stage, now(self.device)
        self.seconds[ended] += time_now - self.since
        self.stage, self.since = stage, time_now
        return ended

    @contextmanager
    def watching(self, layer: nn.Module) -> Iterator[None]:
        """Clock the layer's experts, its sum over routes and whatever is exchanged."""
        with ExitStack() as patches:

            def replace(owner: Any, name: str, wrap: Callable) -> None:
                patches.enter_context(mock.patch.object(owner, name, wrap(getattr(owner, name))))

            replace(dist, "all_to_all_single", self._exchange)
            replace(layer.experts, "forward", partial(self._stage, EXPERTS))
            for owner, name in COMBINES:
                replace(owner, name, partial(self._stage, COMBINE))
            yield

    def _stage(self, stage: str, function: Callable) -> Callable:
        def run(rows: Tensor, *others) -> Tensor:
            if not hasattr(rows, "stage"):  # else it is another stage's output
                rows.register_hook(lambda _: self._begin(SORT))
            before = self.enter(stage)
            out = function(rows, *others)
            self.enter(before)
            out.stage = stage
            out.register_hook(lambda _: self._begin(stage))
            return out

        return run

    def _begin(self, stage: str) -> None:
        self.enter(stage)

    def _exchange(self, function: Callable) -> Callable:
        def run(output, input, output_split_sizes=None, input_split_sizes=None, **others):
            self._count(input, input_split_sizes, others["group"])
            before = self.enter(WAIT)
            dist.barrier(others["group"])
            self.enter(EXCHANGE)
            result = function(output, input, output_split_sizes, input_split_sizes, **others)
            self.enter(before)
            return result

        return run

    def _count(self, sent: Tensor, sizes: list[int] | None, group: dist.ProcessGroup) -> None:
        ranks, here = dist.get_world_size(group), dist.get_rank(group)
        kept = sizes[here] / max(1, sum(sizes)) if sizes else 1 / ranks
        self.bytes[self.phase] += sent.nbytes
        self.bytes[f"{self.phase} to others"] += round(sent.nbytes * (1 - kept))


def counts_of(step: Step, args: argparse.Namespace) -> dict[str, Any]:
    """Bytes exchanged, and rows that reach this rank's experts, padding apart."""
    meter, seen = Meter(step.device), []
    hook = step.layer.experts.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with meter.watching(step.layer):
        step(between=lambda: setattr(meter, "phase", "backward"))
    hook.remove()
    rows = seen[0].detach().reshape(-1, args.dim)
    return {
        "exchanged_bytes": dict(meter.bytes),
        "routes": args.tokens * args.top_k,
        "rows": int(rows.any(1).sum()),  # no token is zero
        "padding": int((~rows.any(1)).sum()),
        "parameter_bytes": sum(p.nbytes for p in step.layer.parameters()),
    }


def check_agreement(steps: dict[str, Step], args: argparse.Namespace) -> None:
    """Raise RuntimeError unless both layers gave the same output and gradients."""
    results = []
    for step in steps.values():
        step()
        x, _, weights = step.routes
        results.append([step.out, x.grad, weights.grad, *step.layer.gradients()])
    for ours, native in zip(*results, strict=True):
        error = float((ours - native).abs().max() / native.abs().max())
        if error > TOLERANCE[args.precision]:
            raise RuntimeError(f"the layers differ by {error:.1e} in a tensor {tuple(ours.shape)}")


def memory_of(step: Step) -> dict[str, int]:
    """Bytes kept for the backward pass, weights and inputs apart, and the most held at once."""
    own = {t.untyped_storage().data_ptr() for t in [*step.layer.parameters(), *step.routes]}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        step()
    step.layer.zero_grad()
    step.out = torch.empty(0)
    before = start_memory(step.device)
    step()
    return {"kept_bytes": sum(kept.values()), "peak_bytes": peak_memory(step.device) - before}


def time_of_gradients(experts: StackedExperts, device: torch.device) -> dict[str, float]:
    """Adding the gradients of all experts over the ranks, once."""
    gradients = torch.cat([p.detach().flatten() for p in experts.parameters()]).to(device)
    times = []
    for _ in range(3):
        dist.barrier()
        started = now(device)
        if comm.world_size() > 1:
            dist.all_reduce(gradients)
        times.append(now(device) - started)
    return {"bytes": gradients.nbytes, "seconds": min(times)}


def return_freed_memory() -> None:
    """Give the memory of every freed tensor back, so that resident memory is what is in use."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mmap_max, mmap_threshold = -4, -3  # names and values of <malloc.h>
        mallopt(mmap_max, 1 << 20)
        mallopt(mmap_threshold, 1 << 16)


# ---- All processes -----------------------------------------------------------------------------


def gathered(value: Any) -> list[Any]:
    """The value of every rank, on every rank."""
    values = [value] * comm.world_size()
    dist.all_gather_object(values, value)
    return values


def summarise(ranks: list[dict[str, Any]]) -> dict[str, Any]:
    """Layer → figures: times of the slowest rank, memory of the largest, bytes of the mean."""
    found: dict[str, Any] = {name: summary_of([r[name] for r in ranks]) for name in ranks[0]}
    first, second = found
    found[f"{first}_to_{second}"] = {key: found[first][key] / found[second][key] for key in RATIOS}
    return found


def summary_of(ranks: list[dict[str, Any]]) -> dict[str, Any]:
    """One layer."""
    seconds = [max(turn) for turn in zip(*(r["seconds"] for r in ranks), strict=True)]
    cpu = [statistics.mean(turn) for turn in zip(*(r["cpu_seconds"] for r in ranks), strict=True)]
    stages = [turn for r in ranks for turn in r["stages"]]
    first = ranks[0]
    found = {
        "median_s": statistics.median(seconds),
        "min_s": min(seconds),
        "median_cpu_s": statistics.median(cpu),
        "min_cpu_s": min(cpu),
        "stages_s": {s: statistics.median(turn.get(s, 0.0) for turn in stages) for s in STAGES},
        "exchanged_bytes": {
            key: round(statistics.mean(r["exchanged_bytes"][key] for r in ranks))
            for key in first["exchanged_bytes"]
        },
        "dropped_rows": sum(r["routes"] - r["rows"] for r in ranks),
        "padded_rows": sum(r["padding"] for r in ranks),
        "parameter_bytes": max(r["parameter_bytes"] for r in ranks),
        "kept_bytes": max(r["kept_bytes"] for r in ranks),
        "peak_bytes": max(r["peak_bytes"] for r in ranks),
    }
    if "gradients" in first:
        found["gradients"] = first["gradients"]
    return found


def table(found: dict[int, dict[str, Any]]) -> str:
    """Markdown: a row per size and layer."""
    heads = ["EP", "layer", "ms: median", "min", "cpu ms: median", "min", *STAGES[:4]]
    heads += ["MB sent: forward", "backward", "kept MB", "peak MB", "dropped", "padding"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    notes = []
    for ep_size, layers in found.items():
        *names, ratios = layers
        lines += [f"| {ep_size} | {name} | {' | '.join(row_of(layers[name]))} |" for name in names]
        values = ", ".join(f"{key} {value:.2f}" for key, value in layers[ratios].items())
        notes.append(f"EP {ep_size}, {ratios.replace('_', ' ')}: {values}")
        for cost in (layers[name].get("gradients") for name in names):
            if cost:
                size, seconds = cost["bytes"] / 1e6, 1e3 * cost["seconds"]
                notes.append(f"adding {size:.0f} MB of gradients over the ranks: {seconds:.0f} ms")
    return "\n".join([*lines, "", *notes])


def row_of(layer: dict[str, Any]) -> list[str]:
    """The cells of one layer."""
    seconds = [layer[key] for key in TIMES] + [layer["stages_s"][s] for s in STAGES[:4]]
    sent = [layer["exchanged_bytes"].get(f"{phase} to others", 0) for phase in PHASES]
    sizes = [*sent, layer["kept_bytes"], layer["peak_bytes"]]
    counts = [layer["dropped_rows"], layer["padded_rows"]]
    return (
        [f"{1e3 * s:.0f}" for s in seconds]
        + [f"{b / 1e6:.1f}" for b in sizes]
        + [str(count) for count in counts]
    )


if __name__ == "__main__":
    main()
