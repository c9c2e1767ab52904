"""Names of the annotated images and videos of a run: no two results share a file."""

import numpy as np

from engine.inference.pipeline import Frame
from engine.results.images import Pictures
from utils.datasets.output_names import ResultNames, name_results


def test_the_result_of_one_image_never_has_the_name_of_another():
    sources = ["a/x.avif", "a/x.avif.jpg", "a/y.avi", "a/y.mov", "a/y.avi.mp4", "a/z.jpg"]
    names = name_results(sources, ["a/y.avi", "a/y.mov", "a/y.avi.mp4"]).images
    assert len({name.lower() for name in names.values()}) == len(sources)
    assert names["a/x.avif"] == "x.avif.jpg"
    assert names["a/x.avif.jpg"] == "x.avif-2.jpg"
    assert names["a/z.jpg"] == "z.jpg"


def test_a_stream_that_changes_its_size_does_not_write_into_the_video_of_another(tmp_path):
    pictures = Pictures(tmp_path, ResultNames({}, {"cam": "cam.mp4", "cam-2": "cam-2.mp4"}, {}))

    def add(source, side, count=2):
        for number in range(count):
            image = np.zeros((side, side, 3), np.uint8)
            pictures.add(Frame(image, source, "live", number + 1, 0, 10.0), image)

    add("cam-2", 64)
    add("cam", 64)
    add("cam", 96)
    add("cam", 64)
    pictures.close()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["cam-2.mp4", "cam-3.mp4", "cam-4.mp4", "cam.mp4"]


def test_results_of_two_sources_never_share_a_name():
    names = name_results(["d/clip.mp4", "d/clip_1.jpg", "d/a.avif", "d/b/a.png"], ["d/clip.mp4"])
    assert list(names.stems.values()) == ["clip", "clip_1.jpg", "a.avif", "b/a.png"]
    assert list(names.images.values()) == ["clip.mp4", "clip_1.jpg", "a.avif.jpg", "a.png"]
    assert list(names.titles.values()) == ["clip.mp4", "clip_1.jpg", "a.avif", "a.png"]
    same = name_results(["d/x/a.png", "d/y/a.png"], [])
    assert [list(part.values()) for part in same] == [["x/a.png", "y/a.png"]] * 3
