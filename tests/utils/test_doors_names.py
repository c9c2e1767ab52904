"""Every name of utils that scripts for YOLOv5 import stands at its address, by how much it is worth (steps A to D)."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# (step, module): names; dataloaders, datasets and augmentations are in the tests of those files
DOORS = {
    ("A", "utils.general"): (
        "non_max_suppression check_img_size scale_boxes scale_coords xyxy2xywh increment_path LOGGER colorstr "
        "check_requirements strip_optimizer check_imshow check_file print_args set_logging check_suffix xywh2xyxy "
        "Profile cv2 is_ascii save_one_box plot_one_box apply_classifier clip_boxes clip_coords"
    ),
    ("A", "utils.plots"): "Annotator colors Colors save_one_box plot_one_box",
    ("A", "utils.torch_utils"): "select_device smart_inference_mode time_sync time_synchronized load_classifier",
    ("B", "utils.general"): (
        "check_dataset check_yaml check_version make_divisible file_size scale_segments TQDM_BAR_FORMAT "
        "np torch nn cv2 Path math os time glob yaml random ROOT"
    ),
    ("B", "utils.downloads"): "attempt_download",
    ("B", "utils.google_utils"): "attempt_download gdrive_download",
    ("B", "utils.activations"): "SiLU Hardswish Mish MemoryEfficientMish FReLU AconC MetaAconC",
    ("B", "utils"): "notebook_init TryExcept threaded emojis",
    ("C", "utils.general"): (
        "box_iou coco80_to_coco91_class xywhn2xyxy xyxy2xywhn xyn2xy fitness intersect_dicts init_seeds one_cycle "
        "labels_to_class_weights segments2boxes segment2box resample_segments bbox_iou"
    ),
    ("C", "utils.metrics"): (
        "ap_per_class ConfusionMatrix box_iou bbox_iou wh_iou bbox_ioa process_batch fitness smooth compute_ap "
        "plot_pr_curve plot_mc_curve"
    ),
    ("C", "utils.plots"): "plot_images output_to_target plot_val_study feature_visualization",
    ("C", "utils.callbacks"): "Callbacks",
    ("C", "utils.loss"): "ComputeLoss smooth_BCE FocalLoss",
    ("C", "utils.torch_utils"): (
        "ModelEMA de_parallel EarlyStopping model_info initialize_weights scale_img is_parallel fuse_conv_and_bn "
        "copy_attr intersect_dicts init_seeds prune sparsity"
    ),
    ("D", "utils.general"): (
        "get_latest_run methods print_mutation check_git_status check_git_info check_amp yaml_save yaml_load "
        "labels_to_image_weights check_online check_font check_python url2file is_colab is_kaggle is_docker "
        "is_notebook is_jupyter is_writeable file_date git_describe WorkingDirectory NUM_THREADS DATASETS_DIR FONT "
        "AUTOINSTALL RANK NCOLS"
    ),
    ("D", "utils.plots"): "plot_evolve plot_labels plot_results color_list",
    ("D", "utils.torch_utils"): (
        "smart_optimizer smart_resume smart_DDP torch_distributed_zero_first LOCAL_RANK RANK WORLD_SIZE"
    ),
    ("D", "utils.autoanchor"): "check_anchors check_anchor_order kmean_anchors",
    ("D", "utils.autobatch"): "check_train_batch_size autobatch",
    ("D", "utils.downloads"): "is_url",
}


@pytest.mark.parametrize(("door", "names"), DOORS.items(), ids=lambda x: "-".join(x) if isinstance(x, tuple) else "")
def test_names_are_there(door, names):
    module = importlib.import_module(door[1])
    assert [name for name in names.split() if not hasattr(module, name)] == []


def test_star_imports_give_the_libraries_and_the_lazy_names():
    code = (
        "from utils.general import *\n"
        "from utils.plots import *\n"
        "from utils.torch_utils import *\n"
        "used = (np, torch, nn, cv2, Path, math, os, time, glob, yaml, random, strip_optimizer, Annotator, colors,\n"
        "        select_device, non_max_suppression, plot_images)\n"
        "print(len(used))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("17", "")


@pytest.mark.parametrize("module", ["utils.general", "utils.plots"])
def test_what_is_not_there_is_an_import_error(module):
    with pytest.raises(ImportError, match="no_such_name"):
        exec(f"from {module} import no_such_name")  # noqa: S102
