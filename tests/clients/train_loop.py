"""A short training loop in the forms of YOLOv5's own: python train_loop.py CFG DATA HYP FOLDER."""

import argparse
import math
import random
import sys
import time
from copy import deepcopy
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from torch.optim import lr_scheduler
from tqdm import tqdm

import val as validate
from models.experimental import attempt_load
from models.yolo import Model
from utils.autoanchor import check_anchors
from utils.callbacks import Callbacks
from utils.dataloaders import create_dataloader
from utils.downloads import attempt_download, is_url
from utils.general import (
    LOGGER,
    TQDM_BAR_FORMAT,
    check_amp,
    check_dataset,
    check_file,
    check_img_size,
    check_suffix,
    check_yaml,
    colorstr,
    get_latest_run,
    increment_path,
    init_seeds,
    intersect_dicts,
    labels_to_class_weights,
    labels_to_image_weights,
    methods,
    one_cycle,
    print_args,
    strip_optimizer,
    yaml_save,
)
from utils.loggers import LOGGERS, Loggers
from utils.loss import ComputeLoss
from utils.metrics import fitness
from utils.torch_utils import (
    EarlyStopping,
    ModelEMA,
    de_parallel,
    select_device,
    smart_optimizer,
    smart_resume,
    torch_distributed_zero_first,
)

LOCAL_RANK, RANK, WORLD_SIZE = -1, -1, 1


def train(hyp, opt, device, callbacks):
    save_dir, epochs, batch_size = Path(opt.save_dir), opt.epochs, opt.batch_size
    w = save_dir / "weights"
    w.mkdir(parents=True, exist_ok=True)
    last, best = w / "last.pt", w / "best.pt"
    opt.hyp = hyp.copy()
    yaml_save(save_dir / "hyp.yaml", hyp)
    yaml_save(save_dir / "opt.yaml", vars(opt))
    loggers = Loggers(save_dir, opt.weights, opt, hyp, LOGGER, include=LOGGERS)
    for k in methods(loggers):
        callbacks.register_action(k, callback=getattr(loggers, k))
    data_dict = loggers.remote_dataset

    init_seeds(opt.seed + 1 + RANK, deterministic=True)
    with torch_distributed_zero_first(LOCAL_RANK):
        data_dict = data_dict or check_dataset(opt.data)
    train_path, val_path = data_dict["train"], data_dict["val"]
    nc, names = int(data_dict["nc"]), data_dict["names"]
    model = Model(opt.cfg, ch=3, nc=nc, anchors=hyp.get("anchors")).to(device)
    if opt.weights.endswith(".pt"):
        check_suffix(opt.weights, ".pt")
        with torch_distributed_zero_first(LOCAL_RANK):
            weights = attempt_download(opt.weights)
        ckpt = torch.load(weights, map_location="cpu", weights_only=False)
        csd = intersect_dicts(ckpt["model"].float().state_dict(), model.state_dict(), exclude=["anchor"])
        model.load_state_dict(csd, strict=False)
        LOGGER.info(f"Transferred {len(csd)}/{len(model.state_dict())} items from {weights}")
    amp = check_amp(model)
    freeze = [f"model.{x}." for x in range(opt.freeze)]
    for k, v in model.named_parameters():
        v.requires_grad = not any(x in k for x in freeze)

    gs = max(int(model.stride.max()), 32)
    imgsz = check_img_size(opt.imgsz, gs, floor=gs * 2)
    nbs = 64
    accumulate = max(round(nbs / batch_size), 1)
    hyp["weight_decay"] *= batch_size * accumulate / nbs
    optimizer = smart_optimizer(model, "SGD", hyp["lr0"], hyp["momentum"], hyp["weight_decay"])
    lf = (
        one_cycle(1, hyp["lrf"], epochs) if opt.cos_lr else lambda x: (1 - x / epochs) * (1.0 - hyp["lrf"]) + hyp["lrf"]
    )
    scheduler = lr_scheduler.LambdaLR(optimizer, lr_lambda=lf)
    ema = ModelEMA(model) if RANK in {-1, 0} else None
    best_fitness, start_epoch = 0.0, 0
    if opt.resume:
        best_fitness, start_epoch, epochs = smart_resume(ckpt, optimizer, ema, opt.weights, epochs, True)

    train_loader, dataset = create_dataloader(
        train_path,
        imgsz,
        batch_size // WORLD_SIZE,
        gs,
        False,
        hyp=hyp,
        augment=True,
        cache=None,
        rect=False,
        rank=LOCAL_RANK,
        workers=0,
        image_weights=opt.image_weights,
        quad=False,
        prefix=colorstr("train: "),
        shuffle=True,
        seed=opt.seed,
    )
    labels = np.concatenate(dataset.labels, 0)
    assert int(labels[:, 0].max()) < nc
    val_loader = create_dataloader(
        val_path, imgsz, batch_size, gs, False, hyp=hyp, rect=True, rank=-1, workers=0, pad=0.5, prefix="val: "
    )[0]
    check_anchors(dataset, model=model, thr=hyp["anchor_t"], imgsz=imgsz)
    model.half().float()
    callbacks.run("on_pretrain_routine_end", labels, names)

    nl = de_parallel(model).model[-1].nl
    hyp["box"] *= 3 / nl
    hyp["cls"] *= nc / 80 * 3 / nl
    hyp["obj"] *= (imgsz / 640) ** 2 * 3 / nl
    hyp["label_smoothing"] = 0.0
    model.nc, model.hyp, model.names = nc, hyp, names
    model.class_weights = labels_to_class_weights(dataset.labels, nc).to(device) * nc

    nb = len(train_loader)
    nw = max(round(hyp["warmup_epochs"] * nb), 100)
    last_opt_step, maps, results = -1, np.zeros(nc), (0, 0, 0, 0, 0, 0, 0)
    scheduler.last_epoch = start_epoch - 1
    scaler = torch.amp.GradScaler("cuda", enabled=amp)
    stopper, stop = EarlyStopping(patience=100), False
    compute_loss = ComputeLoss(model)
    callbacks.run("on_train_start")
    for epoch in range(start_epoch, epochs):
        callbacks.run("on_train_epoch_start")
        model.train()
        if opt.image_weights:
            cw = model.class_weights.cpu().numpy() * (1 - maps) ** 2 / nc
            iw = labels_to_image_weights(dataset.labels, nc=nc, class_weights=cw)
            dataset.indices = random.choices(range(dataset.n), weights=iw, k=dataset.n)
        mloss = torch.zeros(3, device=device)
        pbar = tqdm(enumerate(train_loader), total=nb, bar_format=TQDM_BAR_FORMAT)
        optimizer.zero_grad()
        for i, (imgs, targets, paths, _) in pbar:
            callbacks.run("on_train_batch_start")
            ni = i + nb * epoch
            imgs = imgs.to(device, non_blocking=True).float() / 255
            if ni <= nw:
                xi = [0, nw]
                accumulate = max(1, np.interp(ni, xi, [1, nbs / batch_size]).round())
                for j, x in enumerate(optimizer.param_groups):
                    start = hyp["warmup_bias_lr"] if j == 0 else 0.0
                    x["lr"] = np.interp(ni, xi, [start, x["initial_lr"] * lf(epoch)])
                    if "momentum" in x:
                        x["momentum"] = np.interp(ni, xi, [hyp["warmup_momentum"], hyp["momentum"]])
            if opt.multi_scale:
                sz = random.randrange(int(imgsz * 0.5), int(imgsz * 1.5) + gs) // gs * gs
                sf = sz / max(imgs.shape[2:])
                if sf != 1:
                    ns = [math.ceil(x * sf / gs) * gs for x in imgs.shape[2:]]
                    imgs = torch.nn.functional.interpolate(imgs, size=ns, mode="bilinear", align_corners=False)
            with torch.amp.autocast("cuda", enabled=amp):
                pred = model(imgs)
                loss, loss_items = compute_loss(pred, targets.to(device))
            scaler.scale(loss).backward()
            if ni - last_opt_step >= accumulate:
                scaler.unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=10.0)
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
                if ema:
                    ema.update(model)
                last_opt_step = ni
            mloss = (mloss * i + loss_items) / (i + 1)
            callbacks.run("on_train_batch_end", model, ni, imgs, targets, paths, list(mloss))
            if callbacks.stop_training:
                return None
        lr = [x["lr"] for x in optimizer.param_groups]
        scheduler.step()
        callbacks.run("on_train_epoch_end", epoch=epoch)
        ema.update_attr(model, include=["yaml", "nc", "hyp", "names", "stride", "class_weights"])
        final_epoch = (epoch + 1 == epochs) or stopper.possible_stop
        results, maps, _ = validate.run(
            data_dict,
            batch_size=batch_size,
            imgsz=imgsz,
            half=amp,
            model=ema.ema,
            single_cls=False,
            dataloader=val_loader,
            save_dir=save_dir,
            plots=False,
            callbacks=callbacks,
            compute_loss=compute_loss,
        )
        fi = fitness(np.array(results).reshape(1, -1))
        stop = stopper(epoch=epoch, fitness=fi)
        best_fitness = max(best_fitness, fi)
        callbacks.run("on_fit_epoch_end", list(mloss) + list(results) + lr, epoch, best_fitness, fi)
        ckpt = {
            "epoch": epoch,
            "best_fitness": best_fitness,
            "model": deepcopy(de_parallel(model)).half(),
            "ema": deepcopy(ema.ema).half(),
            "updates": ema.updates,
            "optimizer": optimizer.state_dict(),
            "opt": vars(opt),
            "date": datetime.now().isoformat(),
        }
        torch.save(ckpt, last)
        if best_fitness == fi:
            torch.save(ckpt, best)
        callbacks.run("on_model_save", last, epoch, final_epoch, best_fitness, fi)
        if stop:
            break
    for f in last, best:
        if f.exists():
            strip_optimizer(f)
    results, _, _ = validate.run(
        data_dict,
        batch_size=batch_size,
        imgsz=imgsz,
        model=attempt_load(best, device).half() if amp else attempt_load(best, device),
        iou_thres=0.60,
        dataloader=val_loader,
        save_dir=save_dir,
        verbose=True,
        plots=False,
        callbacks=callbacks,
        compute_loss=compute_loss,
    )
    callbacks.run("on_train_end", last, best, epoch, results)
    return results


if __name__ == "__main__":
    cfg, data, hyp, folder = sys.argv[1:]
    import yaml

    opt = argparse.Namespace(
        cfg=check_yaml(cfg), data=check_file(data), weights="", epochs=1, batch_size=4, imgsz=64, seed=0, freeze=0,
        cos_lr=True, image_weights=True, multi_scale=True, resume=False,
        save_dir=str(increment_path(Path(folder) / "exp", exist_ok=False)),
    )  # fmt: skip
    print_args(vars(opt))
    assert not is_url(opt.cfg, check=False)
    t0 = time.time()
    with open(hyp, errors="ignore") as f:
        hyp = yaml.safe_load(f)
    found = train(hyp, opt, select_device("cpu", batch_size=opt.batch_size), Callbacks())
    assert len(found) == 7
    assert Path(get_latest_run(folder)).name == "last.pt"
    LOGGER.info(f"{time.time() - t0:.1f}s")
