"""Statistics of a dataset, and what its loader makes of it: python dataset_stats.py DATA FOLDER."""

import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import torch

from utils.augmentations import Albumentations, augment_hsv, box_candidates, letterbox, random_perspective
from utils.autoanchor import kmean_anchors
from utils.dataloaders import (
    IMG_FORMATS,
    InfiniteDataLoader,
    LoadImagesAndLabels,
    autosplit,
    create_dataloader,
    img2label_paths,
    verify_image_label,
)
from utils.general import check_dataset, labels_to_class_weights, segments2boxes, xywhn2xyxy, xyxy2xywhn
from utils.plots import Annotator, colors, plot_images, plot_labels

data, folder = sys.argv[1:]
folder = Path(folder)
data = check_dataset(data)
dataset = LoadImagesAndLabels(data["train"], 64, 2, stride=32, pad=0.5, prefix="train: ")
assert len(dataset) == dataset.n == len(dataset.im_files) == len(dataset.label_files) == len(dataset.labels)
assert [str(x) for x in dataset.label_files] == list(img2label_paths(dataset.im_files))
assert all(Path(f).suffix[1:].lower() in IMG_FORMATS for f in dataset.im_files)
labels = np.concatenate(dataset.labels, 0)
wh = np.concatenate([l[:, 3:5] * s for s, l in zip(dataset.shapes, dataset.labels, strict=True)])
print("classes", np.bincount(labels[:, 0].astype(int), minlength=data["nc"]).tolist(), "boxes", wh.mean(0))
print("weights", labels_to_class_weights(dataset.labels, data["nc"]).tolist())
plot_labels(labels, data["names"], folder)

found = verify_image_label((dataset.im_files[0], dataset.label_files[0], "check: "))
im_file, lb, shape, segments, missing, there, empty, corrupt, message = found
assert (missing, there, empty, corrupt, message) == (0, 1, 0, 0, "")
np.testing.assert_allclose(lb, dataset.labels[0])

img, (h0, w0), (h, w) = dataset.load_image(0)
img, ratio, pad = letterbox(img.copy(), 64, auto=False, scaleup=False)
boxes = dataset.labels[0].copy()
boxes[:, 1:] = xywhn2xyxy(boxes[:, 1:], ratio[0] * w, ratio[1] * h, padw=pad[0], padh=pad[1])
annotator = Annotator(img, line_width=1, example=str(data["names"]))
for c, *box in boxes.tolist():
    annotator.box_label(box, data["names"][int(c)], color=colors(c, True))
cv2.imwrite(str(folder / "first.jpg"), annotator.result())
img, moved = random_perspective(img, boxes, degrees=0, translate=0.1, scale=0.5, shear=0)
augment_hsv(img, 0.015, 0.7, 0.4)
img, moved = Albumentations()(img, np.concatenate((moved[:, :1], xyxy2xywhn(moved[:, 1:5], 64, 64, clip=True)), 1))
assert img.shape == (64, 64, 3)
assert box_candidates(boxes[:, 1:].T, boxes[:, 1:].T).all()
assert segments2boxes([np.array([[0, 0], [4, 2.0]])]).tolist() == [[2, 1, 4, 2]]

loader = torch.utils.data.DataLoader(
    dataset, batch_size=2, num_workers=0, sampler=None, collate_fn=LoadImagesAndLabels.collate_fn
)
for im, targets, paths, shapes in loader:
    assert im.shape[0] == len(paths) == len(shapes)
    assert targets.shape[1] == 6
loader = InfiniteDataLoader(dataset, batch_size=2, collate_fn=dataset.collate_fn)
assert sum(len(batch[2]) for batch in loader) == len(dataset)
hyp = {"mosaic": 1.0, "mixup": 0.1, "copy_paste": 0.1, "fliplr": 0.5, "hsv_h": 0.015, "hsv_s": 0.7, "hsv_v": 0.4}
hyp |= {"degrees": 0.0, "translate": 0.1, "scale": 0.5, "shear": 0.0, "perspective": 0.0, "flipud": 0.0}
loader, augmented = create_dataloader(data["train"], 64, 2, 32, hyp=hyp, augment=True, workers=0, shuffle=True)
for i, (im, targets, paths, _) in enumerate(loader):
    plot_images(im, targets, paths=paths, fname=folder / f"batch{i}.jpg", names=data["names"]).join()
img4, labels4 = augmented.load_mosaic(0)
assert img4.shape[2] == 3
assert labels4.shape[1] == 5
anchors = kmean_anchors(dataset, n=3, img_size=64, thr=4.0, gen=10, verbose=False)
assert anchors.shape == (3, 2)
shutil.copytree(data["train"], folder / "copied")
autosplit(folder / "copied", weights=(0.5, 0.5, 0.0))
listed = [(folder / f"autosplit_{name}.txt").read_text().split() for name in ("train", "val")]
assert len(listed[0]) + len(listed[1]) == len(dataset)
