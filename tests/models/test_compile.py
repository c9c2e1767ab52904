"""torch.compile: no graph break inside a stage, gradients of the compiled stage are those of the plain one.

`fullgraph=True` makes a break an error; `aot_eager` traces forward and backward as the default backend does, without
the minutes of its code generation. What the code generator makes of the traced graph is PyTorch's.
"""

from copy import deepcopy

import pytest
import torch

from models.common import C3SwinV2, PatchEmbed, PatchMerging, SwinV2Stage

FORMS = {
    "plain": {},
    "checkpointing": {"checkpointing": True},
    "sequential": {"sequential": 3},
    "sdpa": {"core": "sdpa"},
    "swin v1": {"bias": "table", "attention": "dot", "norm": "pre"},
}


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()


def compiled(module):
    return torch.compile(module, fullgraph=True, backend="aot_eager")


QUICK = "checkpointing"  # one form, whose graph holds another


@pytest.mark.parametrize("form", [f if f == QUICK else pytest.param(f, marks=pytest.mark.slow) for f in FORMS])
def test_stage_trains_as_one_graph_with_the_gradients_of_eager(form):
    stage = SwinV2Stage(16, 16, 2, 4, 2, norm_gain=1.0, **FORMS[form])
    x = torch.randn(2, 16, 7, 9)  # padded, shifted
    results = []
    for run in (deepcopy(stage), compiled(stage)):
        image = x.clone().requires_grad_()
        y = run(image)
        y.square().mean().backward()
        results.append([y.detach(), image.grad, *(p.grad for p in run.parameters())])
    for eager, traced in zip(*results, strict=True):
        torch.testing.assert_close(traced, eager, atol=1e-6 * max(1.0, eager.abs().max()), rtol=1e-5)


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.parametrize("fuse", [False, True])
def test_stage_infers_as_one_graph(fuse):
    stage = SwinV2Stage(16, 16, 2, 4, 2, norm_gain=1.0).eval()
    if fuse:
        for block in stage.blocks:
            block.attn.fuse()
    x = torch.randn(2, 16, 7, 9)
    torch.testing.assert_close(compiled(stage)(x), stage(x), atol=1e-6, rtol=1e-5)


@pytest.mark.slow
def test_mixed_precision_and_stochastic_depth_break_no_graph():
    stage = SwinV2Stage(16, 16, 2, 4, 2, norm_gain=1.0, drop_path=0.3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        compiled(stage)(torch.randn(2, 16, 8, 8)).float().sum().backward()
    assert all(p.grad.isfinite().all() for p in stage.parameters())


@torch.no_grad()
@pytest.mark.parametrize(
    "module",
    [PatchEmbed(3, 8), PatchMerging(3, 8), pytest.param(C3SwinV2(3, 16, 2, 4).eval(), marks=pytest.mark.slow)],
    ids=lambda m: type(m).__name__,
)
def test_parts_beside_the_stages_are_one_graph_each(module):
    x = torch.randn(1, 3, 9, 7)
    torch.testing.assert_close(compiled(module)(x), module(x), atol=1e-6, rtol=1e-5)


def test_graph_breaks_would_be_seen():
    class Broken(SwinV2Stage):
        def forward(self, x):
            return super().forward(x) if x.sum().item() else x

    with pytest.raises(Exception, match="(?i)data.dependent|graph break|item"):  # the class is private to PyTorch
        compiled(Broken(16, 16, 2, 4, 2))(torch.randn(1, 16, 8, 8))
