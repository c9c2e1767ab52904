"""YOLOv5's address of helpers that stand in files of their own here."""

from utils.console import ANSI as ANSI
from utils.console import ANSI_END as ANSI_END
from utils.console import LOGGER as LOGGER
from utils.console import TQDM_BAR_FORMAT as TQDM_BAR_FORMAT
from utils.console import ConsoleHandler as ConsoleHandler
from utils.console import OneLine as OneLine
from utils.console import cli_errors as cli_errors
from utils.console import colorstr as colorstr
from utils.console import log_options as log_options
from utils.image_size import check_img_size as check_img_size
from utils.image_size import make_divisible as make_divisible
from utils.paths import ROOT as ROOT
from utils.paths import VERSION as VERSION
from utils.paths import check_file as check_file
from utils.paths import get_latest_run as get_latest_run
from utils.paths import git_describe as git_describe
from utils.paths import increment_path as increment_path
from utils.paths import run_folder as run_folder
