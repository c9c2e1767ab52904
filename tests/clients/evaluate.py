"""A changed copy of YOLOv5's validation script: python evaluate.py WEIGHTS DATA FOLDER."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from models.common import DetectMultiBackend
from utils.callbacks import Callbacks
from utils.dataloaders import create_dataloader
from utils.general import (
    LOGGER,
    TQDM_BAR_FORMAT,
    Profile,
    check_dataset,
    check_img_size,
    coco80_to_coco91_class,
    colorstr,
    increment_path,
    non_max_suppression,
    scale_boxes,
    xywh2xyxy,
    xyxy2xywh,
)
from utils.metrics import ConfusionMatrix, ap_per_class, box_iou
from utils.plots import output_to_target, plot_images, plot_val_study
from utils.torch_utils import select_device, smart_inference_mode


def save_one_json(predn, jdict, path, class_map):
    image_id = int(path.stem) if path.stem.isnumeric() else path.stem
    box = xyxy2xywh(predn[:, :4])
    box[:, :2] -= box[:, 2:] / 2
    for p, b in zip(predn.tolist(), box.tolist(), strict=True):
        jdict.append({"image_id": image_id, "category_id": class_map[int(p[5])], "bbox": b, "score": round(p[4], 5)})


def process_batch(detections, labels, iouv):
    correct = np.zeros((detections.shape[0], iouv.shape[0])).astype(bool)
    iou = box_iou(labels[:, 1:], detections[:, :4])
    correct_class = labels[:, 0:1] == detections[:, 5]
    for i in range(len(iouv)):
        x = torch.where((iou >= iouv[i]) & correct_class)
        if x[0].shape[0]:
            matches = torch.cat((torch.stack(x, 1), iou[x[0], x[1]][:, None]), 1).cpu().numpy()
            if x[0].shape[0] > 1:
                matches = matches[matches[:, 2].argsort()[::-1]]
                matches = matches[np.unique(matches[:, 1], return_index=True)[1]]
                matches = matches[np.unique(matches[:, 0], return_index=True)[1]]
            correct[matches[:, 1].astype(int), i] = True
    return torch.tensor(correct, dtype=torch.bool, device=iouv.device)


@smart_inference_mode()
def run(data, weights, batch_size=2, imgsz=64, conf_thres=0.001, iou_thres=0.6, max_det=300, project="runs/val"):
    device = select_device("", batch_size=batch_size)
    save_dir = increment_path(Path(project) / "exp", exist_ok=False)
    save_dir.mkdir(parents=True, exist_ok=True)
    model = DetectMultiBackend(weights, device=device, dnn=False, data=data, fp16=False)
    stride, pt, jit, engine = model.stride, model.pt, model.jit, model.engine
    imgsz = check_img_size(imgsz, s=stride)
    half = model.fp16
    assert pt and not (jit or engine)
    data = check_dataset(data)
    model.eval()
    cuda = device.type != "cpu"
    is_coco = isinstance(data.get("val"), str) and data["val"].endswith("coco/val2017.txt")
    nc = int(data["nc"])
    iouv = torch.linspace(0.5, 0.95, 10, device=device)
    niou = iouv.numel()
    assert model.model.nc == nc
    model.warmup(imgsz=(1 if pt else batch_size, 3, imgsz, imgsz))
    dataloader = create_dataloader(
        data["val"], imgsz, batch_size, stride, False, pad=0.5, rect=pt, workers=0, prefix=colorstr("val: ")
    )[0]
    seen, confusion_matrix, callbacks = 0, ConfusionMatrix(nc=nc), Callbacks()
    names = model.names if hasattr(model, "names") else model.module.names
    if isinstance(names, (list, tuple)):
        names = dict(enumerate(names))
    class_map = coco80_to_coco91_class() if is_coco else list(range(1000))
    dt, jdict, stats, ap_class = (Profile(device=device), Profile(device=device), Profile(device=device)), [], [], []
    callbacks.run("on_val_start")
    for batch_i, (im, targets, paths, shapes) in enumerate(tqdm(dataloader, bar_format=TQDM_BAR_FORMAT)):
        callbacks.run("on_val_batch_start")
        with dt[0]:
            if cuda:
                im, targets = im.to(device, non_blocking=True), targets.to(device)
            im = (im.half() if half else im.float()) / 255
            nb, _, height, width = im.shape
        with dt[1]:
            preds, _ = model(im), None
        targets[:, 2:] *= torch.tensor((width, height, width, height), device=device)
        lb = []
        with dt[2]:
            preds = non_max_suppression(
                preds, conf_thres, iou_thres, labels=lb, multi_label=True, agnostic=False, max_det=max_det
            )
        for si, pred in enumerate(preds):
            labels = targets[targets[:, 0] == si, 1:]
            nl, npr = labels.shape[0], pred.shape[0]
            path, shape = Path(paths[si]), shapes[si][0]
            correct = torch.zeros(npr, niou, dtype=torch.bool, device=device)
            seen += 1
            if npr == 0:
                if nl:
                    stats.append((correct, *torch.zeros((2, 0), device=device), labels[:, 0]))
                    confusion_matrix.process_batch(detections=None, labels=labels[:, 0])
                continue
            predn = pred.clone()
            scale_boxes(im[si].shape[1:], predn[:, :4], shape, shapes[si][1])
            if nl:
                tbox = xywh2xyxy(labels[:, 1:5])
                scale_boxes(im[si].shape[1:], tbox, shape, shapes[si][1])
                labelsn = torch.cat((labels[:, 0:1], tbox), 1)
                correct = process_batch(predn, labelsn, iouv)
                confusion_matrix.process_batch(predn, labelsn)
            stats.append((correct, pred[:, 4], pred[:, 5], labels[:, 0]))
            save_one_json(predn, jdict, path, class_map)
            callbacks.run("on_val_image_end", pred, predn, path, names, im[si])
        if batch_i < 3:
            plot_images(im, targets, paths, save_dir / f"val_batch{batch_i}_labels.jpg", names)
            plot_images(im, output_to_target(preds), paths, save_dir / f"val_batch{batch_i}_pred.jpg", names)
        callbacks.run("on_val_batch_end", batch_i, im, targets, paths, shapes, preds)
    stats = [torch.cat(x, 0).cpu().numpy() for x in zip(*stats, strict=True)]
    if len(stats) and stats[0].any():
        tp, fp, p, r, f1, ap, ap_class = ap_per_class(*stats, plot=True, save_dir=save_dir, names=names)
        ap50, ap = ap[:, 0], ap.mean(1)
        mp, mr, map50, map = p.mean(), r.mean(), ap50.mean(), ap.mean()
    nt = np.bincount(stats[3].astype(int), minlength=nc)
    LOGGER.info(("%22s" + "%11s" * 6) % ("Class", "Images", "Instances", "P", "R", "mAP50", "mAP50-95"))
    LOGGER.info(("%22s" + "%11i" * 2 + "%11.3g" * 4) % ("all", seen, nt.sum(), mp, mr, map50, map))
    for i, c in enumerate(ap_class):
        LOGGER.info(("%22s" + "%11i" * 2 + "%11.3g" * 4) % (names[c], seen, nt[c], p[i], r[i], ap50[i], ap[i]))
    t = tuple(x.t / seen * 1e3 for x in dt)
    LOGGER.info("Speed: %.1fms pre-process, %.1fms inference, %.1fms NMS per image" % t)
    confusion_matrix.plot(save_dir=save_dir, names=list(names.values()))
    callbacks.run("on_val_end", nt, tp, fp, p, r, f1, ap, ap50, ap_class, confusion_matrix)
    (save_dir / "predictions.json").write_text(json.dumps(jdict))
    maps = np.zeros(nc) + map
    for i, c in enumerate(ap_class):
        maps[c] = ap[i]
    return (mp, mr, map50, map), maps, t


if __name__ == "__main__":
    weights, data, folder = sys.argv[1:]
    metrics, maps, _ = run(data, weights, project=folder)
    np.savetxt(Path(folder) / "study_data_tiny.txt", np.array([[*metrics, 0, 0, 0, 1.0, 2.0, 0.5]]), fmt="%10.4g")
    plot_val_study(dir=folder, x=[64])
    Path(folder, "metrics.json").write_text(json.dumps(list(map(float, metrics))))
