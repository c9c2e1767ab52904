"""The earlier address of the doctor: `python -m utils.labels CHECK my.yaml` is `python -m engine.doctor my.yaml`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("engine.doctor", run_name="__main__", alter_sys=True)
