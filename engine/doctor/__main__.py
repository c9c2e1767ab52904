"""Find what is wrong with a dataset; nothing of it is written or changed.

python -m engine.doctor my.yaml --img 640                # all checks
python -m engine.doctor my.yaml --fast --strict          # no decoding; exit status 1 after an error or warning
python -m engine.doctor my.yaml --html doctor.html       # a page with thumbnails

Exit status: 0 if the dataset can be used, whatever was found; 1 if nothing usable is left, or as --strict says; 2 for a
wrong command line.
"""

from utils.console import cli_errors, pause_collection, resume_collection
from utils.options.doctor import parse_opt

if __name__ == "__main__":  # before torch is loaded: --help and mistyped options are answered at once
    with cli_errors():
        OPTIONS = parse_opt(description=__doc__)
    pause_collection()

from engine.doctor.run import main

if __name__ == "__main__":
    resume_collection()
    with cli_errors():
        main(OPTIONS)
