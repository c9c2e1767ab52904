"""utils.plots, metrics, loss, torch_utils, callbacks and small files in YOLOv5's call form and return form."""

import math
import threading
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import utils
from engine.training.evolve import RESULTS
from tests.waiting import HANG
from utils import activations, autoanchor, autobatch, downloads, google_utils, loss, metrics, plots, torch_utils
from utils.callbacks import EVENTS, Callbacks


def grey(height=120, width=200):
    return np.full((height, width, 3), 128, np.uint8)


# Plots ----------------------------------------------------------------------------------------------------------------
def test_annotator_as_detect_calls_it():
    image = grey()
    annotator = plots.Annotator(image, line_width=2, example=str({0: "cat"}))
    det = torch.tensor([[20.0, 40, 80, 100, 0.9, 3]])
    for *xyxy, _, cls in det:  # a list of scalar tensors
        annotator.box_label(xyxy, "cat 0.90", color=plots.colors(int(cls), True))
    assert annotator.result() is annotator.im is image
    assert tuple(image[70, 20]) == plots.colors(3, True)
    assert annotator.lw == 2
    assert (image[:38] != 128).any(), "no label above the box"
    plain = grey()
    plots.Annotator(plain, 1).box_label((20, 40, 80, 100), None, (0, 0, 255))
    assert (plain[:39] == 128).all()
    white = grey()
    plots.Annotator(white, 1).box_label((20, 40, 80, 100), "dog", (0, 0, 0), (1, 254, 1))
    assert (white == (1, 254, 1)).all(2).any(), "txt_color is not used"


@pytest.mark.parametrize("given", [grey(), Image.fromarray(grey())], ids=["array", "PIL"])
def test_annotator_of_a_pil_image(given):
    annotator = plots.Annotator(given, 3, 12, "Arial.ttf", True, "abc")
    assert annotator.pil
    assert isinstance(annotator.im, Image.Image)
    annotator.box_label([10, 30, 60, 80], "汽车", (255, 0, 0))
    annotator.rectangle([100, 10, 120, 30], fill=(0, 255, 0), outline=(0, 0, 255), width=1)
    annotator.draw.line([(0, 110), (199, 110)], fill=(9, 9, 9))
    annotator.text((130, 40), "text", txt_color=(0, 0, 0))
    result = annotator.result()
    assert result.shape == (120, 200, 3)
    assert tuple(result[80, 30]) == (255, 0, 0)
    assert (tuple(result[20, 110]), tuple(result[10, 110])) == ((0, 255, 0), (0, 0, 255))
    assert tuple(result[110, 50]) == (9, 9, 9)
    assert result[40:60, 130:170].min() < 20
    assert result[40:60, 130:170].max() == 128, "text has a background"


def test_text_stands_below_or_above_its_place():
    below, above = grey(), grey()
    plots.Annotator(below, 1, 12).text((20, 60), "x")
    plots.Annotator(above, 1, 12).text((20, 60), "x", anchor="bottom")
    assert (below[:60] == 128).all()
    assert (above[60:] == 128).all()
    assert below.max() == above.max() == 255


def test_font_file_is_used():
    font = plots.find_font("abc", 12).path.replace("DejaVuSans.ttf", "DejaVuSans-Bold.ttf")
    pages = [grey(), grey()]
    plots.Annotator(pages[0], 1, 12).box_label((20, 60, 90, 90), "mmm")
    plots.Annotator(pages[1], 1, 12, font).box_label((20, 60, 90, 90), "mmm")
    assert (pages[0] != pages[1]).any()


def test_colors():
    assert plots.colors(1) == plots.colors(torch.tensor(21.0)) == plots.colors.palette[1]
    assert plots.colors(1, bgr=True) == plots.colors(1)[::-1]
    assert (plots.colors.n, len(plots.Colors().palette)) == (20, 20)
    assert plots.Colors.hex2rgb("#FF3810") == (255, 56, 16)
    assert plots.color_list() == plots.colors.palette[:10]


@pytest.mark.parametrize(
    "box", [[20, 30, 60, 50], torch.tensor([[20.0, 30, 60, 50]]), list(torch.tensor([20, 30, 60, 50]))]
)
def test_save_one_box(tmp_path, box):
    image = grey()
    image[..., 0] = 250  # blue
    file = tmp_path / "crops/cat/a.png"
    crop = plots.save_one_box(box, image, file=file, BGR=True)
    assert crop.shape == (31, 51, 3)  # rows int(40 - 15.2) to int(40 + 15.2), columns int(40 - 25.4) to int(40 + 25.4)
    assert crop[0, 0, 0] == 250
    saved = cv2.imread(str(tmp_path / "crops/cat/a.jpg"))
    assert abs(int(saved[5, 5, 0]) - 250) < 5
    assert plots.save_one_box(box, image, file, gain=1, pad=0, square=True).shape == (40, 40, 3)
    assert (tmp_path / "crops/cat/a2.jpg").exists()
    rgb = plots.save_one_box(box, image, tmp_path / "x.jpg", save=False)
    assert rgb[0, 0, 2] == 250
    assert not (tmp_path / "x.jpg").exists()


def test_plot_one_box_draws_in_place():
    image = grey()
    assert plots.plot_one_box([20, 60, 90, 90], image, label="cat 0.9", color=[0, 0, 255], line_thickness=3) is None
    assert tuple(image[75, 20]) == (0, 0, 255)
    plots.plot_one_box(torch.tensor([100, 60, 150, 90]), image)
    assert tuple(image[75, 100]) in [color[::-1] for color in plots.colors.palette]


def test_batch_is_drawn_in_a_thread_from_pixels_or_fractions(tmp_path):
    found = [torch.tensor([[16.0, 16, 48, 32, 0.9, 1]]), torch.zeros(0, 6)]
    rows = plots.output_to_target(found)
    np.testing.assert_allclose(rows, [[0, 1, 32, 24, 32, 16, 0.9]])
    assert plots.output_to_target([found[0].repeat(5, 1)], max_det=2).shape == (2, 7)
    images = torch.full((2, 3, 64, 64), 0.5)
    fractions = rows.copy()
    fractions[:, 2:6] /= 64
    for name, (batch, targets) in {
        "pixels": (images, rows),
        "fractions": (images, fractions),
        "bytes": (images * 255, rows),
    }.items():
        thread = plots.plot_images(batch, targets, ["a.jpg", "b.jpg"], tmp_path / f"{name}.png", {0: "a", 1: "b"})
        assert isinstance(thread, threading.Thread)
        thread.join()
    drawn = [cv2.imread(str(tmp_path / f"{name}.png")) for name in ("pixels", "fractions", "bytes")]
    assert (drawn[0] == drawn[1]).all()
    assert (drawn[0] == drawn[2]).all()
    assert tuple(drawn[0][28, 16]) == plots.colors(1, True)


def test_study_results_and_features_are_drawn(tmp_path):
    np.savetxt(tmp_path / "study_coco_a.txt", np.ones((2, 10)))
    plots.plot_val_study(dir=tmp_path, x=[320, 640])
    assert (tmp_path / "study.png").exists()
    with pytest.raises(FileNotFoundError, match=r"no study\*.txt"):
        plots.plot_val_study(dir=tmp_path / "none")
    header = ",".join(f"c{i}" for i in range(14))
    (tmp_path / "results.csv").write_text("\n".join([header, *[",".join(["1"] * 14)] * 2]))
    plots.plot_results(dir=tmp_path)
    assert (tmp_path / "results.png").exists()
    plots.plot_labels(np.array([[0, 0.5, 0.5, 0.2, 0.2]]), names={0: "a"}, save_dir=tmp_path)
    assert (tmp_path / "labels.jpg").exists()
    plots.feature_visualization(torch.rand(1, 40, 8, 8), "models.common.C3", 17, save_dir=tmp_path / "features")
    plots.feature_visualization(torch.rand(1, 40, 8, 8), "models.yolo.Detect", 24, save_dir=tmp_path / "features")
    assert {f.name for f in (tmp_path / "features").iterdir()} == {"stage17_C3_features.npy", "stage17_C3_features.png"}
    assert np.load(tmp_path / "features/stage17_C3_features.npy").shape == (40, 8, 8)


def test_evolution_is_drawn_from_its_table(tmp_path):
    table = [[*RESULTS, "lr0"], [0.1] * 7 + [0.01], [0.2] * 7 + [0.02]]
    (tmp_path / "evolve.csv").write_text("\n".join(", ".join(map(str, row)) for row in table))
    plots.plot_evolve(tmp_path / "evolve.csv")
    assert (tmp_path / "evolve.png").exists()
    with pytest.raises(FileNotFoundError, match="no table of an evolution"):
        plots.plot_evolve(tmp_path / "none.csv")


# Metrics and loss -----------------------------------------------------------------------------------------------------
def test_ap_per_class_gives_seven_values_and_draws(tmp_path):
    tp = np.ones((4, 10), bool)
    classes = np.array([0, 0, 2, 2])
    values = metrics.ap_per_class(
        tp, np.full(4, 0.9), classes, classes, plot=True, save_dir=tmp_path, names={0: "a", 2: "c"}
    )
    n_tp, n_fp, p, r, f1, ap, found = values
    np.testing.assert_allclose([n_tp, n_fp, p, r], [[2, 2], [0, 0], [1, 1], [1, 1]], atol=1e-9)
    np.testing.assert_allclose(f1, 1)
    np.testing.assert_allclose(ap, np.full((2, 10), 0.995), atol=1e-6)
    assert (found.dtype.kind, found.tolist()) == ("i", [0, 2])
    assert {f.name for f in tmp_path.iterdir()} == {f"{c}_curve.png" for c in ("PR", "F1", "P", "R")}


def test_confusion_matrix(tmp_path, caplog):
    matrix = metrics.ConfusionMatrix(nc=2, conf=0.25, iou_thres=0.45)
    found = torch.tensor([[0.0, 0, 10, 10, 0.9, 0], [50, 50, 60, 60, 0.8, 1], [0, 0, 10, 10, 0.1, 1]])
    matrix.process_batch(found, torch.tensor([[1.0, 0, 0, 10, 10]]))
    matrix.process_batch(None, torch.tensor([0.0, 1.0]))  # YOLOv5's form: only classes
    assert matrix.matrix.tolist() == [[0, 1, 0], [0, 0, 1], [1, 1, 0]]
    tp, fp = matrix.tp_fp()
    assert (tp.tolist(), fp.tolist()) == ([0, 0], [1, 1])
    matrix.plot(normalize=True, save_dir=tmp_path, names=["a", "b"])
    assert (tmp_path / "confusion_matrix.png").exists()
    with caplog.at_level("INFO", "yolov5"):
        matrix.print()
    assert caplog.messages == ["0 1 0", "0 0 1", "1 1 0"]


def test_iou_in_the_forms_of_old_and_new():
    a, b = torch.tensor([[5.0, 5, 10, 10]]), torch.tensor([[5.0, 10, 10, 10], [5, 5, 10, 10]])
    iou = metrics.bbox_iou(a, b, xywh=True)
    assert iou.shape == (2, 1)
    np.testing.assert_allclose(iou[:, 0], [1 / 3, 1], rtol=1e-5)
    old = metrics.bbox_iou(a[0], b, x1y1x2y2=False)
    np.testing.assert_allclose(old, iou[:, 0])
    corners = torch.tensor([[0.0, 0, 10, 10], [0, 5, 10, 15]])
    np.testing.assert_allclose(metrics.bbox_iou(corners.T, corners, x1y1x2y2=True, CIoU=True), [1, 1], rtol=1e-5)
    assert metrics.box_iou(corners, corners, 1e-7).shape == (2, 2)
    sizes = metrics.wh_iou(torch.tensor([[2.0, 2]]), torch.tensor([[2.0, 2], [4, 1]]))
    np.testing.assert_allclose(sizes, [[1, 2 / 6]], rtol=1e-5)
    np.testing.assert_allclose(metrics.bbox_ioa(corners[0].numpy(), corners.numpy()), [1, 0.5], rtol=1e-5)


def test_process_batch():
    iouv = torch.linspace(0.5, 0.95, 10)
    correct = metrics.process_batch(torch.tensor([[0.0, 0, 10, 8, 0.9, 1]]), torch.tensor([[1.0, 0, 0, 10, 10]]), iouv)
    assert correct.dtype == torch.bool
    assert correct.tolist() == [[True] * 7 + [False] * 3]  # IoU 0.8, not above it in float32


class Head(nn.Module):
    nc, nl, na = 2, 1, 1
    anchors, stride = torch.tensor([[[2.0, 2.0]]]), torch.tensor([8.0])


HYP = {"box": 0.05, "obj": 1.0, "cls": 0.5, "cls_pw": 1.0, "obj_pw": 1.0, "anchor_t": 4.0, "fl_gamma": 0.0}


def test_loss_and_its_targets():
    compute = loss.ComputeLoss(SimpleNamespace(model=[Head()], hyp=HYP))
    assert (compute.nc, compute.nl, compute.na, compute.cp, compute.cn) == (2, 1, 1, 1.0, 0.0)
    maps = [torch.zeros(1, 1, 4, 4, 7, requires_grad=True)]
    targets = torch.tensor([[0, 1, 0.55, 0.55, 0.5, 0.5]])
    classes, boxes, places, anchors = compute.build_targets(maps, targets)
    assert (len(classes), len(boxes), len(places), len(anchors)) == (1, 1, 1, 1)
    image, _, row, column = places[0]
    assert {(int(r), int(c)) for r, c in zip(row, column, strict=True)} == {(2, 2), (1, 2), (2, 1)}  # centre, up, left
    np.testing.assert_allclose(boxes[0][:, 2:], np.full((3, 2), 2.0))
    np.testing.assert_allclose(boxes[0][0, :2], [0.2, 0.2], atol=1e-6)
    assert (classes[0].tolist(), image.tolist()) == ([1, 1, 1], [0, 0, 0])
    total, items = compute(maps, targets)
    assert (total.shape, items.shape) == ((1,), (3,))
    np.testing.assert_allclose(total.item(), items.sum().item(), rtol=1e-6)
    total.backward()
    assert maps[0].grad.abs().sum() > 0


def test_a_fork_uses_and_replaces_the_parts_of_the_loss():
    class Plain(loss.ComputeLoss):
        def __call__(self, p, targets):
            lobj = torch.zeros(1, device=self.device)
            tcls, _, indices, _ = self.build_targets(p, targets)
            lcls = torch.zeros(1, device=self.device)
            for i, pi in enumerate(p):
                b, a, gj, gi = indices[i]
                t = torch.full_like(pi[b, a, gj, gi][:, 5:], self.cn)
                t[range(len(b)), tcls[i]] = self.cp
                lcls += self.BCEcls(pi[b, a, gj, gi][:, 5:], t)
                tobj = torch.zeros_like(pi[..., 4])
                tobj[b, a, gj, gi] = (1.0 - self.gr) + self.gr * torch.ones(len(b))
                lobj += self.BCEobj(pi[..., 4], tobj) * self.balance[i]
            return lobj * self.hyp["obj"] + lcls * self.hyp["cls"], torch.cat((lobj, lcls)).detach()

    model = SimpleNamespace(model=[Head()], hyp=HYP)
    compute = Plain(model)
    assert (compute.ssi, compute.sort_obj_iou, compute.autobalance) == (0, True, False)
    maps, targets = [torch.ones(1, 1, 4, 4, 7)], torch.tensor([[0, 1, 0.55, 0.55, 0.5, 0.5]])
    assert compute(maps, targets)[1][1] == pytest.approx(loss.ComputeLoss(model)(maps, targets)[1][2] / HYP["cls"])
    changed = loss.ComputeLoss(model)
    changed.BCEcls = nn.BCEWithLogitsLoss(reduction="sum")
    assert changed(maps, targets)[1][2] > loss.ComputeLoss(model)(maps, targets)[1][2]


def test_a_fork_may_choose_other_targets():
    class NoTargets(loss.ComputeLoss):
        def build_targets(self, p, targets):
            return super().build_targets(p, targets[:0])

    model = SimpleNamespace(model=[Head()], hyp=HYP)
    maps, targets = [torch.zeros(1, 1, 4, 4, 7)], torch.tensor([[0, 1, 0.55, 0.55, 0.5, 0.5]])
    box, objectness, cls = NoTargets(model)(maps, targets)[1].tolist()
    assert (box, cls) == (0, 0)
    assert objectness == pytest.approx(4 * math.log(2))  # all 16 cells at 0.5, weight 4 of P3


def test_focal_loss_and_smoothing_by_hand():
    assert loss.smooth_BCE() == (0.95, 0.05)
    logits, true = torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.0])
    p = 1 / (1 + math.exp(-2))
    expected = [0.25 * 0.5**1.5 * math.log(2), 0.75 * p**1.5 * -math.log(1 - p)]
    np.testing.assert_allclose(loss.FocalLoss(nn.BCEWithLogitsLoss())(logits, true), np.mean(expected), rtol=1e-5)
    each = loss.FocalLoss(nn.BCEWithLogitsLoss(reduction="none"), gamma=1.5, alpha=0.25)(logits, true)
    np.testing.assert_allclose(each, expected, rtol=1e-5)
    total = loss.FocalLoss(nn.BCEWithLogitsLoss(reduction="sum"))(logits, true)
    np.testing.assert_allclose(total, sum(expected), rtol=1e-5)


# torch_utils ----------------------------------------------------------------------------------------------------------
def test_devices_decorators_and_clocks():
    assert torch_utils.select_device("cpu", batch_size=None, newline=False) == torch.device("cpu")
    assert torch_utils.select_device(torch.device("cpu"), 16, newline=True).type == "cpu"

    @torch_utils.smart_inference_mode()
    def run():
        return torch.is_inference_mode_enabled()

    assert run()
    start = torch_utils.time_sync()
    assert torch_utils.time_synchronized() >= start
    with pytest.raises(NotImplementedError, match="second-stage classifiers are not here"):
        torch_utils.load_classifier("resnet50", n=2)


def test_averages_stops_and_wrappers():
    model = nn.Sequential(nn.Linear(2, 2))
    model.names, model._private = {0: "a"}, 1
    ema = torch_utils.ModelEMA(model, 0.5, 1, 0)
    assert not ema.ema.training
    assert not next(ema.ema.parameters()).requires_grad
    with torch.no_grad():
        model[0].weight += 1
    before = ema.ema[0].weight.clone()
    ema.update(model)
    d = 0.5 * (1 - math.exp(-1))
    assert (ema.updates, ema.decay(1)) == (1, pytest.approx(d))
    torch.testing.assert_close(ema.ema[0].weight, d * before + (1 - d) * model[0].weight.detach())
    model.names = {0: "b"}
    ema.update_attr(model, include=["names"])
    assert ema.ema.names == {0: "b"}
    ema.ema.names = None
    ema.update_attr(model)
    assert ema.ema.names == {0: "b"}
    stopper = torch_utils.EarlyStopping(patience=2)
    assert [stopper(epoch, fi) for epoch, fi in enumerate((0.5, 0.4, 0.4))] == [False, False, True]
    assert stopper.possible_stop
    wrapped = nn.DataParallel(model)
    assert (torch_utils.is_parallel(wrapped), torch_utils.is_parallel(model)) == (True, False)
    assert torch_utils.de_parallel(wrapped) is model


def test_model_info_and_pruning(caplog):
    model = nn.Sequential(nn.Conv2d(1, 10, 3, bias=False), nn.ReLU())
    with caplog.at_level("INFO", "yolov5"):
        assert torch_utils.model_info(model, verbose=True, imgsz=64) == (2, 90, 90, 0.0)
    assert "2 layers, 90 parameters, 90 gradients" in caplog.text
    assert "0.weight" in caplog.text
    smallest = model[0].weight.detach().abs().flatten().sort().values[:27].max()
    torch_utils.prune(model, 0.3)
    assert torch_utils.sparsity(model) == pytest.approx(0.3)
    assert model[0].weight.detach().abs()[model[0].weight != 0].min() > smallest
    x = torch.rand(1, 3, 64, 32)
    assert torch_utils.scale_img(x, 0.5, gs=32).shape == (1, 3, 32, 32)
    assert torch_utils.scale_img(x, 0.5, same_shape=True).shape == (1, 3, 32, 16)


def test_helpers_of_a_training_loop():
    model = nn.Sequential(nn.Linear(2, 2))
    optimizer = torch_utils.smart_optimizer(model, "SGD", 0.1, 0.9, 0.01)
    assert [len(g["params"]) for g in optimizer.param_groups] == [1, 1, 0]  # bias, decayed weights, others
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0, 0.01, 0]
    ema = torch_utils.ModelEMA(model)
    ckpt = {"epoch": 4, "optimizer": optimizer.state_dict(), "best_fitness": 0.5, "ema": ema.ema, "updates": 7}
    assert torch_utils.smart_resume(ckpt, optimizer, ema, "a.pt", 10) == (0.5, 5, 10)
    assert ema.updates == 7
    assert torch_utils.smart_resume(ckpt, optimizer, None, "a.pt", 3, resume=False) == (0.5, 5, 7)
    with pytest.raises(ValueError, match=r"a\.pt: training to 10 epochs is finished, nothing to resume"):
        torch_utils.smart_resume({"epoch": -1}, optimizer, None, "a.pt", 10)
    with torch_utils.torch_distributed_zero_first(-1):
        pass


# Callbacks ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("event", EVENTS)
def test_actions_get_arguments_by_position(event):
    heard, callbacks = [], Callbacks()
    callbacks.register_action(event, name="hear", callback=lambda *given: heard.append(given))
    given = tuple(object() for _ in EVENTS[event])
    callbacks.run(event, *given)
    callbacks.run(event, **dict(zip(EVENTS[event], given, strict=True)))
    assert heard == [given, given]
    assert [action["name"] for action in callbacks.get_registered_actions(event)] == ["hear"]
    assert set(callbacks.get_registered_actions()) == set(EVENTS)


def test_events_without_names_pass_yolov5s_arguments_to_actions_only():
    heard, callbacks = [], Callbacks()
    callbacks.register("on_val_image_end", lambda: heard.append("ours"))
    callbacks.register_action("on_val_image_end", callback=lambda *given: heard.append(given))
    callbacks.run("on_val_image_end", 1, 2, "path", {}, 5)
    assert heard == ["ours", (1, 2, "path", {}, 5)]
    with pytest.raises(ValueError, match="cannot be called"):
        callbacks.register_action("teardown")


def test_actions_may_run_in_threads():
    done, callbacks = threading.Event(), Callbacks()
    callbacks.register_action("on_train_start", callback=done.set)
    callbacks.run("on_train_start", thread=True)
    assert done.wait(HANG)


# Small files ----------------------------------------------------------------------------------------------------------
def test_weights_that_are_there_are_not_fetched(tmp_path):
    file = tmp_path / "a.pt"
    file.touch()
    assert downloads.attempt_download(file) == str(file)
    for attempt in (downloads.attempt_download, google_utils.attempt_download):
        with pytest.raises(FileNotFoundError, match=r"best\.pt: no such file, .* give the path of a \.pt"):
            attempt(tmp_path / "best.pt")
    with pytest.raises(NotImplementedError, match="nothing is fetched from Google Drive"):
        google_utils.gdrive_download("id", "a.pt")
    assert downloads.is_url("https://x.org/a.jpg", check=False)
    assert not downloads.is_url("a.jpg", check=True)
    assert not downloads.is_url("http://127.0.0.1:1/a.jpg", check=True)  # nobody listens there


def test_activations_by_their_formulas():
    x = torch.tensor([-1.0, 0.5]).view(1, 2, 1, 1)
    torch.testing.assert_close(activations.SiLU()(x), x * x.sigmoid())
    torch.testing.assert_close(activations.MemoryEfficientMish()(x), x * torch.tanh(torch.log(1 + x.exp())))
    acon = activations.AconC(2)
    with torch.no_grad():
        acon.p1.fill_(1), acon.p2.fill_(0), acon.beta.fill_(1)  # then it is SiLU, section 3.1 of the paper
    torch.testing.assert_close(acon(x), x * x.sigmoid())
    funnel = activations.FReLU(2).eval()
    with torch.no_grad():
        funnel.conv.weight.zero_()  # a look at nothing: ReLU
    torch.testing.assert_close(funnel(x), x.relu())
    meta = activations.MetaAconC(32)
    with torch.no_grad():
        meta.p1.fill_(1), meta.p2.fill_(0), meta.fc2.weight.zero_(), meta.fc2.bias.fill_(100)  # beta 1
    y = torch.randn(2, 32, 3, 3)
    torch.testing.assert_close(meta(y), y * y.sigmoid())
    assert meta.fc1.out_channels == 16


def test_package_helpers(caplog):
    assert utils.notebook_init(verbose=False) is None  # no IPython
    assert utils.emojis("ok ✅").startswith("ok")
    with utils.TryExcept("reading"):
        raise OSError("gone")
    assert "reading: gone" in caplog.text

    @utils.TryExcept()
    def divide():
        return 1 / 0

    assert divide() is None
    with pytest.raises(KeyboardInterrupt), utils.TryExcept():
        raise KeyboardInterrupt
    heard = []
    thread = utils.threaded(heard.append)(1)
    thread.join()
    assert heard == [1]


def test_batch_size_where_nothing_can_be_measured():
    model = nn.Conv2d(3, 1, 1).eval()
    assert autobatch.autobatch(model, 64, 0.9, batch_size=8) == 8
    assert autobatch.check_train_batch_size(model, 64, amp=False) == 16
    assert not model.training


def boxes_of(wh_pixels, side=640):
    """A dataset of one square image with boxes of these sizes in pixels."""
    wh = np.asarray(wh_pixels, np.float32) / side
    labels = np.concatenate([np.zeros((len(wh), 1)), np.full((len(wh), 2), 0.5), wh], 1)
    return SimpleNamespace(shapes=np.array([[side, side]]), labels=[labels])


def test_anchors_of_a_dataset_and_a_model():
    sizes = np.random.default_rng(0).uniform(200, 400, (60, 2))
    head = nn.Module()
    head.stride = torch.tensor([8.0, 16.0])
    head.anchors = torch.tensor([[[2.0, 2.0]], [[2.0, 2.0]]])  # 16 and 32 pixels: too small by far
    model = nn.Module()
    model.model = [head]
    assert autoanchor.check_anchors(boxes_of(sizes), model, thr=4.0, imgsz=640) is None
    pixels = head.anchors[:, 0] * head.stride[:, None]
    assert ((pixels > 150) & (pixels < 450)).all()
    kept = head.anchors.clone()
    autoanchor.check_anchors(boxes_of(sizes), model)
    assert torch.equal(head.anchors, kept)
    head.anchors = torch.tensor([[[9.0, 9.0]], [[1.0, 1.0]]])
    assert autoanchor.check_anchor_order(head) is None
    assert head.anchors[:, 0, 0].tolist() == [1, 9]
    autoanchor.check_anchor_order(head)
    assert head.anchors[:, 0, 0].tolist() == [1, 9]


def test_anchors_are_found_for_a_dataset_or_its_yaml(tiny_dataset):
    anchors = autoanchor.kmean_anchors(boxes_of(np.full((30, 2), 100.0)), n=3, img_size=320, gen=50, verbose=False)
    assert (anchors.shape, anchors.dtype) == ((3, 2), np.float32)
    assert np.abs(anchors - 50).min() < 5  # 100 pixels of 640
    assert autoanchor.kmean_anchors(str(tiny_dataset), 2, 64, gen=5).shape == (2, 2)


def test_find_modules_and_a_box_drawn_by_pil():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1))
    assert torch_utils.find_modules(model) == [0, 2]
    assert torch_utils.find_modules(SimpleNamespace(model=model), nn.ReLU) == [1]
    image = grey()
    drawn = plots.plot_one_box_PIL([20, 40, 80, 100], image, (0, 0, 255), "dög", 2)
    assert (image == 128).all()
    assert tuple(drawn[70, 20]) == (0, 0, 255)
