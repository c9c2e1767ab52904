"""What the scripts share: files, labels, augmentation, loss, metrics, training aids. Nothing here imports `models`.

A script of this repository imports this package first. Where a library is missing then, it ends with one line.
"""

import shlex
import sys
import sysconfig
from pathlib import Path
from types import TracebackType

from utils.paths import PACKAGE, ROOT, SCRIPTS, command


def import_advice(error: ImportError) -> str:
    """Return what is missing for an import, and the command that helps; "" if that is not known."""
    if "libGL" in str(error) or "libgthread" in str(error):
        swap = command("pip", "uninstall", "-y", "opencv-python"), command("pip", "install", "opencv-python-headless")
        return f"OpenCV does not load here ({error}): {' && '.join(swap)}"
    name = (error.name or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or not name or (ROOT / name).exists():
        return ""
    venv, needed = ROOT / ".venv", str(ROOT / "requirements.txt")
    found, pip = (str(venv / "bin" / program) for program in ("python", "pip"))
    if Path(found).exists() and Path(sys.prefix).resolve() != venv.resolve() and Path(sys.argv[0]).name in SCRIPTS:
        return f"{sys.executable} has no {name}, but there is {venv}: {shlex.join([found, *sys.argv])}"
    line = command("pip", "install", "-r", needed)
    managed = sys.prefix == sys.base_prefix and Path(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED").exists()
    if managed and not PACKAGE:  # pip refuses to install into the Python of the system
        line = f"{command('python', '-m', 'venv', venv)} && {shlex.join([pip, 'install', '-r', needed])}"
    return f"{sys.executable} has no {name}: {line}"


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Log the advice of an import error in one line, and other errors as Python does."""
    advice = import_advice(error) if isinstance(error, ImportError) else ""
    if advice:
        sys.stderr.write(f"ERROR: {advice}\n")
    else:
        sys.__excepthook__(kind, error, trace)


if Path(getattr(sys.modules.get("__main__"), "__file__", None) or "").resolve().is_relative_to(ROOT):
    sys.excepthook = _report  # before the imports that may fail

from utils.console import TryExcept as TryExcept  # noqa: E402
from utils.console import emojis as emojis  # noqa: E402
from utils.console import notebook_init as notebook_init  # noqa: E402
from utils.console import threaded as threaded  # noqa: E402
