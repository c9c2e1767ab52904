"""The earlier address of the doctor: `python -m utils.labels CHECK my.yaml` is `python -m engine.doctor my.yaml`."""

import subprocess
import sys

if __name__ == "__main__":  # a process of its own: nothing in utils imports the engine
    doctor = f"{(__package__ or '').removesuffix('utils')}engine.doctor"
    raise SystemExit(subprocess.run([sys.executable, "-m", doctor, *sys.argv[1:]], check=False).returncode)
