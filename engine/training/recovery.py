"""Recovery of a training run: report where values are not finite, roll back, find a batch that fits in memory."""

from dataclasses import MISSING, fields, replace
from pathlib import Path

import torch
from torch import Tensor

from engine.training.health import Diverged, LossWatch, amplitudes, describe_amplitudes, not_finite, shortened
from engine.training.state import Plan, State, restore, to_checkpoint
from models.weights.checkpoint import load_checkpoint, save_checkpoint
from utils.autobatch import largest_that_fits
from utils.console import LOGGER
from utils.distributed import is_main, mean_over_processes, world_size
from utils.hyp import Hyp
from utils.loss import ComputeLoss
from utils.torch_utils import amp_context

MAX_ROLLBACKS = 5  # in one run, those before a resume too; the rate is then 1/32
FEWEST_TARGETS = 16  # below this, no match at all may be chance


def diverged(what: str, state: State, plan: Plan, batch: int, items: Tensor, images: Tensor) -> Diverged:
    """Return the error for a diverged loss or gradient; one more pass of the batch finds the layer.

    Call it in every process.

    Args:
        what: subject and verb, such as "the loss is not finite".
        state: of the run; batch statistics and random states may move.
        plan: of the run.
        batch: number in the epoch.
        items: box, objectness and class loss, (3,), and with a teacher that of its term, (4,).
        images: the batch, (B, 3, H, W).
    """
    # before the extra pass: it moves buffers and would blur what the failed batch left
    bad = not_finite({name: p.grad for name, p in state.model.named_parameters() if p.grad is not None})
    weights = not_finite(state.model.state_dict())

    def forward() -> None:
        with amp_context(plan.device, plan.amp):
            state.model(images)

    try:
        where = describe_amplitudes(amplitudes(state.model.model, forward))
    except torch.OutOfMemoryError:
        where = "there is not enough memory to find the layer"
    if bad:
        where = f"gradients that are not finite: {shortened(bad)}; {where}"
    if weights:
        where = f"weights that are not finite: {shortened(weights)}; {where}"
    # the rate below is that of group 1, the decayed weights: the biases have another one in the warmup
    box, obj, cls, *taught = items.tolist()
    teacher = "".join(f", teacher {value:.4g}" for value in taught)
    scale = f", gradient scale {state.scaler.get_scale():.3g}" if state.scaler.is_enabled() else ""
    return Diverged(
        f"{what} in epoch {state.epoch}, batch {batch}: box {box:.4g}, objectness {obj:.4g}, class {cls:.4g}{teacher}, "
        f"learning rate {state.optimizer.param_groups[1]['lr']:.3g}{scale}; {where}. {kept(plan)}. "
        "Try a lower lr0, --amp off or bf16, or --nan-policy rollback"
    )


def kept(plan: Plan) -> str:
    """Say which checkpoint a run that stops now leaves."""
    last = plan.save_dir / "weights/last.pt"
    return f"The last good checkpoint is kept: {last}" if last.is_file() else "There is no checkpoint yet"


def check_step(
    state: State, plan: Plan, batch: int, items: Tensor, images: Tensor, watch: LossWatch, stepped: bool | None
) -> None:
    """Raise `Diverged` if a batch gave a loss or a gradient that no step should follow.

    Args:
        state: as for `diverged`, like all up to `images`.
        plan: of the run.
        batch: number in the epoch.
        items: losses.
        images: the batch.
        watch: has seen the previous batches; called with this one before the step, that is with `stepped` None.
        stepped: what `optimizer_step` returned; None before the step.
    """
    if stepped is not None:
        if not stepped:
            overflow = "the gradient is not finite and the scaler cannot correct it"
            what = overflow if state.scaler.is_enabled() else "the gradient is not finite"
            raise diverged(what, state, plan, batch, items, images)
        return
    if not items.isfinite().all():
        raise diverged("the loss is not finite", state, plan, batch, items, images)
    if watch(float(items.sum())):
        what = f"the loss diverges (lowest mean so far: {watch.lowest:.4g})"
        raise diverged(what, state, plan, batch, items, images)


def check_epoch(state: State, plan: Plan, compute_loss: ComputeLoss) -> None:
    """Check a finished epoch before it is validated and saved; call it in every process.

    Raises:
        Diverged: a weight or an average is not finite, so no checkpoint may get it.
        ValueError: of all targets so far, not one was matched by an anchor.
    """
    bad = not_finite(state.model.state_dict()) + not_finite(
        {f"average of {name}": x for name, x in state.ema.ema.state_dict().items()}
    )
    # one process alone must not raise: the others would wait for it in the next collective operation
    found = torch.tensor([len(bad), compute_loss.seen, compute_loss.matched], dtype=torch.float32, device=plan.device)
    anywhere, seen, matched = (mean_over_processes(found) * world_size()).tolist()
    if anywhere:
        names = shortened(bad) if bad else "in another process"
        raise Diverged(f"weights are not finite after epoch {state.epoch}: {names}. {kept(plan)}")
    if not seen:
        LOGGER.warning(f"epoch {state.epoch} had no labels, only background images: only objectness was trained")
    elif not matched and seen >= FEWEST_TARGETS:
        head = state.model.detect
        anchors = (head.anchors * head.stride.view(-1, 1, 1)).flatten(0, 1).round().int().tolist()
        raise ValueError(
            f"none of {seen:.0f} labels matched an anchor up to epoch {state.epoch}: their sides differ by more "
            f"than a factor of {plan.hyp.anchor_t:g} (anchor_t) from those of every anchor, in pixels {anchors}. "
            f"{kept(plan)}. Remove --noautoanchor, or fix 'anchors' in the model file"
        )


# Rollback -------------------------------------------------------------------------------------------------------------
def slowed(hyp: Hyp, rollbacks: int) -> Hyp:
    """Return hyperparameters whose rates, also that of the biases in the warmup, are halved once per rollback."""
    factor = 0.5**rollbacks
    return replace(hyp, lr0=hyp.lr0 * factor, warmup_bias_lr=hyp.warmup_bias_lr * factor) if rollbacks else hyp


def save_start(state: State, plan: Plan, file: Path) -> None:
    """Write the state before the first epoch, such as `start_file`; call it in every process."""
    if plan.options.shard_optimizer:
        state.optimizer.consolidate_state_dict(to=0)
    if is_main():  # a checkpoint names its last finished epoch
        save_checkpoint(file, to_checkpoint(state, plan) | {"epoch": state.epoch - 1})


def start_file(plan: Plan) -> Path:
    """Return weights/start.pt, to which a run can go back before its first epoch is saved."""
    return plan.save_dir / "weights/start.pt"


def roll_back(state: State, plan: Plan, error: Diverged) -> None:
    """Go back to the last saved epoch, or to the start, with half the learning rate; call it in every process.

    The number of rollbacks is written into the checkpoint at once, so a run that is killed and resumed keeps it.

    Raises:
        Diverged: the given error, if there were `MAX_ROLLBACKS` before.
    """
    if state.rollbacks >= MAX_ROLLBACKS:
        raise Diverged(
            f"{error}. The run has already been rolled back {MAX_ROLLBACKS} times, which is the limit"
        ) from error
    last = plan.save_dir / "weights/last.pt"
    file = last if last.is_file() else start_file(plan)
    ckpt = load_checkpoint(file)
    rollbacks = state.rollbacks + 1
    for spec in fields(state):  # what the checkpoint does not bring back begins anew
        if spec.default is not MISSING:
            setattr(state, spec.name, spec.default)
        elif spec.default_factory is not MISSING:
            setattr(state, spec.name, spec.default_factory())
    mean_over_processes(torch.zeros(1, device=plan.device))  # all have read the file before the first one changes it
    state.optimizer.zero_grad()  # gradients of the failed batch are not part of a checkpoint
    restore(state, plan, ckpt)
    state.rollbacks = rollbacks
    if is_main():
        save_checkpoint(file, ckpt | {"opt": ckpt["opt"] | {"rollbacks": rollbacks}})
    LOGGER.warning(str(error))
    LOGGER.warning(
        f"Rolled back to {file}, epoch {state.epoch} restarts with {0.5**rollbacks:g} of the learning "
        f"rate (rollback {rollbacks} of at most {MAX_ROLLBACKS})"
    )


# Memory ---------------------------------------------------------------------------------------------------------------
def out_of_memory(
    state: State, plan: Plan, images: Tensor, targets: Tensor, compute_loss: ComputeLoss, batch: int
) -> ValueError:
    """Return the error for a batch that does not fit; a single process also finds by trials which one does.

    Call it when the tensors of the failed pass are gone.
    """
    size = images.shape[-1]
    text = f"out of memory on {plan.device} in batch {batch} with {len(images)} images of {size} pixels: "
    per_image = (4 if plan.options.quad else 1) * world_size()  # of --batch-size
    if world_size() > 1:  # the others wait in the middle of a step: no trial can be made here
        half = max(len(images) // 2, 1) * per_image
        return ValueError(f"{text}try --batch-size {half}, a smaller --img, or --activation-checkpointing")
    fitting = batch_that_fits(state, plan, images, targets, compute_loss) * per_image
    if not fitting:
        return ValueError(f"{text}not even one image fits: use a smaller --img or --activation-checkpointing")
    return ValueError(
        f"{text}--batch-size {fitting} fits (just tested); a smaller --img or --activation-checkpointing allows more"
    )


def batch_that_fits(state: State, plan: Plan, images: Tensor, targets: Tensor, compute_loss: ComputeLoss) -> int:
    """Find by trials how many images fit in memory for a training step, the optimizer state included."""
    learning = [p for group in state.optimizer.param_groups for p in group["params"]]
    # before its first step an optimizer has no state yet: SGD will add one copy of the weights, Adam two
    copies = 0 if state.optimizer.state else 1 if "momentum" in state.optimizer.param_groups[0] else 2

    def attempt(n: int) -> None:
        reserve = [torch.empty_like(p) for p in learning * copies]  # what the first step will allocate
        with amp_context(plan.device, plan.amp):
            preds = state.model(images[:n])
        loss, items = compute_loss(preds, targets[targets[:, 0] < n].to(plan.device))
        if state.distillation:
            loss, _ = state.distillation(loss, items, images[:n], preds, 0.0)
        loss.backward()
        del reserve

    def fits(n: int) -> bool:
        try:
            attempt(n)
        except torch.OutOfMemoryError:
            return False
        finally:
            state.optimizer.zero_grad()
            if plan.device.type == "cuda":  # blocks cut for a larger trial would make the next one fail
                torch.cuda.empty_cache()
        return True

    return largest_that_fits(fits, len(images))
