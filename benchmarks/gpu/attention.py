"""Attention cores: time, memory, error against float64, and which kernels run.

The cores of this repository are `explicit` and `sdpa`. `flex` is PyTorch's flex_attention with bias and mask in its
score function, `compiled` is `explicit` through torch.compile; both are made here to compare with.
"""

import warnings
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import flex_attention
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.work import Item, Setting, Work, extra_memory, free_memory, milliseconds, synchronize, time_calls
from models.swin.attention import BLOCKED, attend_explicit, attend_sdpa, logit_factor, normalize_queries_keys
from models.swin.windows import window_mask

WINDOWS = (8, 16, 7, 10)  # the default ones first
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
ALLOWED = {"float32": 1e-4, "float16": 0.02, "bfloat16": 0.15}  # of the largest value of the exact result
BACKENDS = ("FLASH_ATTENTION", "EFFICIENT_ATTENTION", "CUDNN_ATTENTION", "MATH")
FUSED = ("flash", "efficient", "cudnn")  # in the names of the operators that PyTorch dispatches to

Core = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None], Tensor]


class Case(NamedTuple):
    """Input of a layer: queries, keys, values (B * K, h, N, d), scale (h, 1, 1), bias (h, N, N), mask (K, N, N)."""

    q: Tensor
    k: Tensor
    v: Tensor
    logit_scale: Tensor
    bias: Tensor
    blocked: Tensor | None

    def to(self, dtype: torch.dtype) -> "Case":
        """Return leaves with gradients: queries, keys and values in `dtype`, the rest in float32 or wider."""
        wide = torch.promote_types(dtype, torch.float32)
        tensors = (self.q.to(dtype), self.k.to(dtype), self.v.to(dtype), self.logit_scale.to(wide), self.bias.to(wide))
        return Case(*(t.detach().clone().requires_grad_() for t in tensors), self.blocked)

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        """All that has a gradient."""
        return self[:5]


def make_case(setting: Setting, window: int, shifted: bool, images: int) -> Case:
    """Return random float32 input of the first stage of Swin T at 640 pixels."""
    side, heads = setting.pick(160, 2 * window), setting.pick(3, 2)
    padded = side + (-side) % window
    count, n = images * (padded // window) ** 2, window * window
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(count, heads, n, 32, generator=g).to(setting.device) for _ in range(3))
    bias = (16 * torch.rand(heads, n, n, generator=g)).to(setting.device)
    shift = window // 2 if shifted else 0
    blocked = window_mask(side, side, (window, window), (shift, shift), True, setting.device) if shifted else None
    scale = torch.full((heads, 1, 1), 10.0).log().to(setting.device)
    return Case(q, k, v, scale, bias, blocked)


def attend(core: Core, case: Case) -> Tensor:
    """Do what `WindowAttention.attend` does."""
    q, k = normalize_queries_keys(case.q, case.k, logit_factor(case.logit_scale))
    return core(q, k, case.v, case.bias, case.blocked)


def flex_core(flex: Callable[..., Tensor]) -> Core:
    """Return a core on flex_attention, or on its compiled form; arguments and result as in `attend_explicit`."""

    def core(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, blocked: Tensor | None) -> Tensor:
        bias = bias.to(v.dtype)

        def score(value: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            value = value + bias[h, i, j]
            return value if blocked is None else torch.where(blocked[b % blocked.shape[0], i, j], BLOCKED, value)

        return flex(q.to(v.dtype), k.to(v.dtype), v, score_mod=score, scale=1.0)

    return core


def compiled_cores(setting: Setting) -> dict[str, Core]:
    """Return `flex` and `compiled`. On a CPU nothing is generated: flex has no backward pass there, and gcc is slow."""
    torch._dynamo.reset()
    if not setting.cuda:
        return {"flex": flex_core(flex_attention), "compiled": torch.compile(attend_explicit, backend="eager")}
    flex = torch.compile(flex_attention, dynamic=False)
    return {"flex": flex_core(flex), "compiled": torch.compile(attend_explicit, dynamic=False)}


def train_call(core: Core, case: Case) -> Callable[[], Tensor]:
    """Return a call that attends and computes all gradients."""
    gradient = torch.ones_like(case.v)

    def call() -> Tensor:
        for leaf in case.leaves:
            leaf.grad = None
        out = attend(core, case)
        out.backward(gradient)
        return out

    return call


def forward_call(core: Core, case: Case) -> Callable[[], Tensor]:
    """Return a call that attends without gradients.

    Its input has none either: PyTorch picks the kernel by what a leaf asks for, whether gradients are recorded or not.
    """
    case = Case(*(leaf.detach() for leaf in case.leaves), case.blocked)

    def call() -> Tensor:
        with torch.no_grad():
            return attend(core, case)

    return call


def relative_gap(found: Tensor | None, exact: Tensor | None) -> float:
    """Return the largest difference over the largest value of the exact one; infinite where one is missing or NaN."""
    if found is None or exact is None:
        return float("inf")
    gap = float((found.detach().double() - exact.detach()).abs().max() / exact.detach().abs().max())
    return gap if gap == gap else float("inf")


def record_errors(work: Work, name: str, core: Core, case: Case, **labels: object) -> None:
    """Record the errors of output and gradients against `explicit` in float64 on the same rounded input."""
    dtype = str(labels["dtype"])
    given = case.to(DTYPES[dtype])
    exact = given.to(torch.float64)
    expected = train_call(attend_explicit, exact)()
    errors = {"output": relative_gap(forward_call(core, given)(), expected)}
    if trains(name, work.setting):
        errors["output in training"] = relative_gap(train_call(core, given)(), expected)
        for field, leaf, other in zip(Case._fields, given.leaves, exact.leaves, strict=False):
            errors[f"gradient of {field}"] = relative_gap(leaf.grad, other.grad)
    for what, error in errors.items():
        work.figure("error against float64", error, "of the largest value", core=name, **labels, of=what)
    largest = max(errors, key=lambda what: errors[what])
    text = f"at most {errors[largest]:.2g} of the largest value ({largest}), allowed {ALLOWED[dtype]}"
    place = ", ".join(f"{key} {value}" for key, value in labels.items())
    work.check(f"{name}, {place}: error", errors[largest] <= ALLOWED[dtype], text)


def trains(name: str, setting: Setting) -> bool:
    """Return whether a core has a backward pass here: flex_attention has none on a CPU."""
    return setting.cuda or name != "flex"


def record_costs(work: Work, name: str, core: Core, case: Case, **labels: object) -> None:
    """Record time and memory of a forward pass, and of a forward and backward pass."""
    given = case.to(DTYPES[str(labels["dtype"])])
    calls = {"forward": forward_call(core, given)}
    if trains(name, work.setting):
        calls["training"] = train_call(core, given)
    for phase, call in calls.items():
        seconds = time_calls(call, work.setting)
        work.figure("attention time", milliseconds(seconds), "ms", core=name, phase=phase, **labels)
        extra = extra_memory(call, work.device)
        if extra is not None:
            work.figure("attention memory", extra, "MiB", core=name, phase=phase, **labels)
    free_memory(work.device)


def own_cores(work: Work, window: int) -> None:
    """Measure `explicit` and `sdpa`, masked and not, in all types."""
    images = work.setting.pick(8, 1)
    for shifted in work.setting.pick((True, False), (True,)):
        for dtype in DTYPES:
            for name, core in (("explicit", attend_explicit), ("sdpa", attend_sdpa)):
                labels = {"window": window, "masked": shifted, "dtype": dtype}
                with work.may_not_fit(f"{name}, {labels}"):
                    record_errors(work, name, core, make_case(work.setting, window, shifted, 1), **labels)
                    record_costs(work, name, core, make_case(work.setting, window, shifted, images), **labels)


def other_cores(work: Work, window: int) -> None:
    """Measure `flex` and `compiled`, masked, in bfloat16; that PyTorch refuses one of them is a finding, no fault."""
    images = work.setting.pick(8, 1)
    for name, core in compiled_cores(work.setting).items():
        labels = {"window": window, "masked": True, "dtype": "bfloat16"}
        try:
            record_errors(work, name, core, make_case(work.setting, window, True, images), **labels)
            record_costs(work, name, core, make_case(work.setting, window, True, images), **labels)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            synchronize(work.device)  # a broken device must end this process
            work.unavailable(f"{name}, window {window}", f"{type(error).__name__}: {first_line(error)}")


def first_line(error: BaseException) -> str:
    """Return the first line of a message that says something."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")[:300]


def kernels(work: Work) -> None:
    """Find out which kernel `sdpa` runs for our bias and mask, and which backends refuse them."""
    answers: dict[str, list[str]] = {}  # answer of the backends -> cases
    for window in work.setting.pick(WINDOWS, WINDOWS[:1]):
        for shifted in (True, False):
            for dtype in DTYPES:
                case = make_case(work.setting, window, shifted, 1).to(DTYPES[dtype])
                place = f"window {window}, {'masked' if shifted else 'not masked'}, {dtype}"
                with work.may_not_fit(f"kernels of {place}"):
                    record_kernels(work, case, place)
                    for answer in ask_backends(work, case):
                        answers.setdefault(answer, []).append(place)
    for answer, places in answers.items():
        work.note(f"{answer}: {'; '.join(places)}")


def record_kernels(work: Work, case: Case, place: str) -> None:
    """Profile both passes: operators that PyTorch dispatched to, and the longest kernels of the card.

    Training on a CPU is not checked: the mask's gradient has no fused kernel there, and models take `explicit`.
    """
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if work.setting.cuda else [])
    for phase, call in (("forward", forward_call(attend_sdpa, case)), ("training", train_call(attend_sdpa, case))):
        call()
        synchronize(work.device)
        with profile(activities=activities) as profiler:
            call()
            synchronize(work.device)
        rows = profiler.key_averages()
        operators = sorted({row.key for row in rows if "_scaled_dot_product_" in row.key})
        fused = any(word in key for key in operators for word in FUSED)
        text = ", ".join(operators) or "no operator of attention was seen"
        if phase == "forward" or work.setting.cuda:
            work.check(f"sdpa is fused: {place}, {phase}", fused, text)
        else:
            work.note(f"sdpa, {place}, {phase}: {text}")
        on_card = [row for row in rows if row.device_type == DeviceType.CUDA]
        on_card.sort(key=lambda row: -row.self_device_time_total)
        if on_card:
            longest = ", ".join(f"{row.key[:90]} {row.self_device_time_total:.0f} us" for row in on_card[:4])
            work.note(f"kernels, {place}, {phase}: {longest}")


def ask_backends(work: Work, case: Case) -> list[str]:
    """Ask for each backend alone: for each pass and backend say whether it runs, or refuses with PyTorch's reasons."""
    answers = []
    for phase, call in (("forward", forward_call(attend_sdpa, case)), ("training", train_call(attend_sdpa, case))):
        for name in BACKENDS:
            with warnings.catch_warnings(record=True) as caught, sdpa_kernel(getattr(SDPBackend, name)):
                warnings.simplefilter("always")
                try:
                    call()
                    synchronize(work.device)
                    answers.append(f"{phase}: {name} runs")
                except RuntimeError as error:
                    synchronize(work.device)
                    said = [" ".join(str(w.message).split(" (Triggered")[0].split()) for w in caught]
                    reasons = [text for text in dict.fromkeys(said) if not text.endswith("because:")]
                    answers.append(f"{phase}: {name} refuses ({'; '.join(reasons)[:400] or first_line(error)})")
    return answers


def attention_items(setting: Setting) -> dict[str, Item]:
    """Return the items: kernels, then our cores, then the other ones, the default window first."""
    windows = setting.pick(WINDOWS, (8, 7))
    return (
        {"kernels": kernels}
        | {f"cores of window {w}": partial(own_cores, window=w) for w in windows}
        | {f"flex and compiled, window {w}": partial(other_cores, window=w) for w in windows}
    )
