"""What the scripts share: files, labels, augmentation, loss, metrics, training aids. Nothing here imports `models`."""

from utils.console import TryExcept as TryExcept
from utils.console import emojis as emojis
from utils.console import notebook_init as notebook_init
from utils.console import threaded as threaded
