"""A network that answers with prepared boxes, so that the metrics of val.py are known beforehand."""

import torch
from torch import nn

import val
from utils.boxes import xywhn2xyxy, xyxy2xywh
from utils.dataloaders import create_dataloader

IMGSZ = 96


def make_loader(data, batch_size=2, rect=True, **settings):
    pad = 0.5 if rect else 0.0
    settings = {"nc": data["nc"], "workers": 0, **settings}
    return create_dataloader(data["val"], IMGSZ, batch_size, 32, rect=rect, pad=pad, **settings)[0]


class Oracle(nn.Module):
    """Answers batch after batch with prepared rows `xyxy_net, confidence, class`, whatever it is shown."""

    def __init__(self, nc, answers, every_class=False):
        super().__init__()
        self.nc, self.answers, self.every_class = nc, list(answers), every_class
        self.names = {i: str(i) for i in range(nc)}
        self.scale = nn.Parameter(torch.ones(1))
        self.frozen = nn.BatchNorm2d(3).eval()
        self.seen_training, self.images = [], []

    def forward(self, images):
        self.seen_training.append(self.training)
        self.images.append(images)
        decoded = torch.zeros(len(images), 100, 5 + self.nc)
        for i, rows in enumerate(self.answers.pop(0)):
            decoded[i, : len(rows), :4] = xyxy2xywh(rows[:, :4])
            decoded[i, : len(rows), 4] = rows[:, 4]
            decoded[i, torch.arange(len(rows)), 5 + rows[:, 5].long()] = 1
        if self.every_class:
            decoded[..., 5:] = 1
        return decoded, [images]


def perfect_answers(loader, confidence=0.9, cls=None):
    """Rows for `Oracle` that repeat the labels of each batch, with class `cls` if given."""
    answers = []
    for images, targets, _, _ in loader:
        frame = images.shape[2:]
        answers.append([])
        for i in range(len(images)):
            t = targets[targets[:, 0] == i]
            classes = t[:, 1:2] if cls is None else torch.full_like(t[:, 1:2], cls)
            boxes = xywhn2xyxy(t[:, 2:], frame[1], frame[0])
            answers[-1].append(torch.cat((boxes, torch.full_like(classes, confidence), classes), 1))
    return answers


def run_oracle(data, loader, answers, nc=None, **settings):
    oracle = Oracle(nc or data["nc"], answers).train()
    oracle.frozen.eval()
    settings = {"plots": False, **settings}
    return val.run(data, model=oracle, dataloader=loader, **settings), oracle
