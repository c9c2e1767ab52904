"""Detection scripts in the forms of YOLOv5 7.0, 6.1 and 5.0, unchanged: they find what detect.py finds."""

import cv2
import numpy as np
import pytest

import detect

HEAD_7_0 = """
import torch
from models.common import DetectMultiBackend
from utils.dataloaders import IMG_FORMATS, VID_FORMATS, LoadImages, LoadScreenshots, LoadStreams
from utils.general import (LOGGER, Profile, check_file, check_img_size, check_imshow, check_requirements, colorstr, cv2,
                           increment_path, non_max_suppression, print_args, scale_boxes, strip_optimizer, xyxy2xywh)
from utils.plots import Annotator, colors, save_one_box
from utils.torch_utils import select_device, smart_inference_mode
"""

LOOP_7_0 = """
@smart_inference_mode()
def run(weights, source, data, imgsz=(64, 64), conf_thres=0.25, iou_thres=0.45, max_det=1000, webcam=False):
    is_file = source.rpartition('.')[2].lower() in (IMG_FORMATS + VID_FORMATS)
    device = select_device('cpu')
    model = DetectMultiBackend(weights, device=device, dnn=False, data=data, fp16=False)
    stride, names, pt = model.stride, model.names, model.pt
    imgsz = check_img_size(imgsz, s=stride)
    bs = 1
    if webcam:
        dataset = LoadStreams(source, img_size=imgsz, stride=stride, auto=pt, vid_stride=1)
        bs = len(dataset)
    else:
        dataset = LoadImages(source, img_size=imgsz, stride=stride, auto=pt, vid_stride=1)
    model.warmup(imgsz=(1 if pt or model.triton else bs, 3, *imgsz))
    seen, windows, dt = 0, [], (Profile(device=device), Profile(device=device), Profile(device=device))
    found = []
    for path, im, im0s, vid_cap, s in dataset:
        with dt[0]:
            im = torch.from_numpy(im).to(model.device)
            im = im.half() if model.fp16 else im.float()
            im /= 255
            if len(im.shape) == 3:
                im = im[None]
        with dt[1]:
            pred = model(im, augment=False, visualize=False)
        with dt[2]:
            pred = non_max_suppression(pred, conf_thres, iou_thres, None, False, max_det=max_det)
        for i, det in enumerate(pred):
            seen += 1
            if webcam:
                p, im0, frame = path[i], im0s[i].copy(), dataset.count
                s += f'{i}: '
            else:
                p, im0, frame = path, im0s.copy(), getattr(dataset, 'frame', 0)
            s += '%gx%g ' % im.shape[2:]
            gn = torch.tensor(im0.shape)[[1, 0, 1, 0]]
            annotator = Annotator(im0, line_width=3, example=str(names))
            if len(det):
                det[:, :4] = scale_boxes(im.shape[2:], det[:, :4], im0.shape).round()
                for c in det[:, 5].unique():
                    s += f"{(det[:, 5] == c).sum()} {names[int(c)]}, "
                for *xyxy, conf, cls in reversed(det):
                    xywh = (xyxy2xywh(torch.tensor(xyxy).view(1, 4)) / gn).view(-1).tolist()
                    annotator.box_label(xyxy, f'{names[int(cls)]} {conf:.2f}', color=colors(int(cls), True))
                    found.append((str(p), frame, int(cls), *xywh))
            assert annotator.result().shape == im0.shape
            if dataset.mode == 'video':
                assert vid_cap.get(cv2.CAP_PROP_FPS) == 12.5
                assert int(vid_cap.get(cv2.CAP_PROP_FRAME_WIDTH)) == im0.shape[1]
        LOGGER.info(f"{s}{'' if len(det) else '(no detections), '}{dt[1].dt * 1E3:.1f}ms")
    t = tuple(x.t / seen * 1E3 for x in dt)
    LOGGER.info(f'Speed: %.1fms pre-process, %.1fms inference, %.1fms NMS per image at shape {(1, 3, *imgsz)}' % t)
    return found
"""

# 6.1: five values of utils.datasets, scale_coords and check_img_size(imgsz, s=), the flags of the model read at once
LOOP_6_1 = """
import torch
from models.common import DetectMultiBackend
from utils.datasets import IMG_FORMATS, VID_FORMATS, LoadImages, LoadStreams
from utils.general import check_img_size, non_max_suppression, scale_coords, xyxy2xywh
from utils.torch_utils import select_device, time_sync

@torch.no_grad()
def run(weights, source, data, imgsz=(64, 64)):
    device = select_device('')
    model = DetectMultiBackend(weights, device=device, dnn=False, data=data)
    stride, names, pt, jit, onnx, engine = model.stride, model.names, model.pt, model.jit, model.onnx, model.engine
    imgsz = check_img_size(imgsz, s=stride)
    half = (pt or jit or onnx or engine) and device.type != 'cpu'
    if pt or jit:
        model.model.half() if half else model.model.float()
    dataset = LoadImages(source, img_size=imgsz, stride=stride, auto=pt)
    model.warmup(imgsz=(1, 3, *imgsz), half=half)
    dt, found = [0.0, 0.0, 0.0], []
    for path, im, im0s, vid_cap, s in dataset:
        t1 = time_sync()
        im = torch.from_numpy(im).to(device)
        im = im.half() if half else im.float()
        im /= 255
        if len(im.shape) == 3:
            im = im[None]
        dt[0] += time_sync() - t1
        pred = non_max_suppression(model(im, augment=False, visualize=False), 0.25, 0.45, None, False, max_det=1000)
        for i, det in enumerate(pred):
            p, im0, frame = path, im0s.copy(), getattr(dataset, 'frame', 0)
            gn = torch.tensor(im0.shape)[[1, 0, 1, 0]]
            if len(det):
                det[:, :4] = scale_coords(im.shape[2:], det[:, :4], im0.shape).round()
                for *xyxy, conf, cls in reversed(det):
                    xywh = (xyxy2xywh(torch.tensor(xyxy).view(1, 4)) / gn).view(-1).tolist()
                    found.append((p, frame, int(cls), *xywh))
    return found
"""

# 5.0: attempt_load, four values, plot_one_box
LOOP_5_0 = """
import time
import torch
from numpy import random
from models.experimental import attempt_load
from utils.datasets import LoadStreams, LoadImages
from utils.general import (check_img_size, check_requirements, check_imshow, non_max_suppression, apply_classifier,
    scale_coords, xyxy2xywh, strip_optimizer, set_logging, increment_path)
from utils.plots import plot_one_box
from utils.torch_utils import select_device, load_classifier, time_synchronized

def run(weights, source, data, imgsz=64):
    set_logging()
    device = select_device('cpu')
    half = device.type != 'cpu'
    model = attempt_load(weights, map_location=device)
    stride = int(model.stride.max())
    imgsz = check_img_size(imgsz, s=stride)
    if half:
        model.half()
    dataset = LoadImages(source, img_size=imgsz, stride=stride)
    names = model.module.names if hasattr(model, 'module') else model.names
    colors = [[random.randint(0, 255) for _ in range(3)] for _ in names]
    found = []
    for path, img, im0s, vid_cap in dataset:
        img = torch.from_numpy(img).to(device)
        img = img.half() if half else img.float()
        img /= 255.0
        if img.ndimension() == 3:
            img = img.unsqueeze(0)
        t1 = time_synchronized()
        with torch.no_grad():
            pred = model(img, augment=False)[0]
        pred = non_max_suppression(pred, 0.25, 0.45, classes=None, agnostic=False)
        for i, det in enumerate(pred):
            p, s, im0, frame = path, '', im0s, getattr(dataset, 'frame', 0)
            before = im0.copy()
            gn = torch.tensor(im0.shape)[[1, 0, 1, 0]]
            if len(det):
                det[:, :4] = scale_coords(img.shape[2:], det[:, :4], im0.shape).round()
                for *xyxy, conf, cls in reversed(det):
                    xywh = (xyxy2xywh(torch.tensor(xyxy).view(1, 4)) / gn).view(-1).tolist()
                    found.append((p, frame, int(cls), *xywh))
                    label = f'{names[int(cls)]} {conf:.2f}'
                    plot_one_box(xyxy, im0, label=label, color=colors[int(cls)], line_thickness=3)
                assert (im0 != before).any()
    return found
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A folder of two images and a video of three frames."""
    folder = tmp_path_factory.mktemp("loops") / "source"
    folder.mkdir()
    noise = [np.random.default_rng(k).integers(0, 256, (6, 9, 3), np.uint8) for k in range(5)]
    frames = [cv2.resize(image, (96, 64), interpolation=cv2.INTER_CUBIC) for image in noise]
    cv2.imwrite(str(folder / "a.png"), frames[0])
    cv2.imwrite(str(folder / "b.png"), frames[1][:, :70])
    writer = cv2.VideoWriter(str(folder / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 12.5, (96, 64))
    for frame in frames[2:]:
        writer.write(frame)
    writer.release()
    return folder


@pytest.fixture(scope="module")
def expected(source, narrow_weights, tmp_path_factory):
    """What detect.py writes: name of the text file -> rows of class and xywhn, in the order in which it draws."""
    project = tmp_path_factory.mktemp("expected")
    detect.run(
        weights=str(narrow_weights), source=str(source), imgsz=[64], save_txt=True, nosave=True, project=str(project)
    )
    texts = (project / "exp" / "labels").glob("*.txt")
    return {file.stem: np.loadtxt(file, ndmin=2) for file in texts}


def by_file(found):
    result = {}
    for path, frame, *row in found:
        stem = path.rpartition("/")[2].rpartition(".")[0]
        result.setdefault(f"{stem}_{frame}" if stem == "clip" else stem, []).append(tuple(row))
    return result


def script(text):
    space = {"__name__": "their_script"}
    exec(text, space)  # noqa: S102 - a script that is not of this project
    return space["run"]


@pytest.mark.parametrize("text", [HEAD_7_0 + LOOP_7_0, LOOP_6_1, LOOP_5_0], ids=["7.0", "6.1", "5.0"])
def test_a_script_finds_what_detect_py_finds(text, source, narrow_weights, expected):
    found = by_file(script(text)(str(narrow_weights), str(source), "data/coco128.yaml"))
    assert found.keys() == expected.keys()
    assert len(found) == 5
    for key, rows in expected.items():
        assert np.array(found[key]) == pytest.approx(rows, abs=1.01 / 64), key  # scripts round boxes to pixels


def test_a_script_reads_streams(source, narrow_weights, expected, tmp_path):
    (tmp_path / "two.streams").write_text(f"{source / 'clip.avi'}\n{source / 'clip.avi'}\n")
    found = script(HEAD_7_0 + LOOP_7_0)(narrow_weights, str(tmp_path / "two.streams"), None, webcam=True)
    per_step = {(path, frame): 0 for path, frame, *_ in found}
    assert len(per_step) == 6  # two streams, three steps
    for k in range(3):
        counts = {sum(1 for p, f, *_ in found if (p, f) == key) for key in per_step if key[1] == k}
        assert counts == {len(expected[f"clip_{k + 1}"])}
