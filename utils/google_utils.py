"""YOLOv5's address of downloads up to 5.0; everything is in `utils.downloads`."""

from typing import NoReturn

from utils.downloads import attempt_download as attempt_download


def gdrive_download(id: str = "", file: str = "tmp.zip") -> NoReturn:
    """Refuse to fetch a file from Google Drive.

    Raises:
        NotImplementedError: always.
    """
    raise NotImplementedError(f"{file}: nothing is fetched from Google Drive; give the path of a .pt file")
