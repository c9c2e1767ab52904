"""The GPU acceptance: budget, isolation and report with stand-ins; every part, and the command, tiny on the CPU."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import memory, plan, programs, speed, work
from benchmarks.gpu.attention import relative_gap
from benchmarks.gpu.plan import PARTS, Part, allowance, run_parts
from benchmarks.gpu.report import has_failed, item_report, make_page, make_report, save_report
from benchmarks.gpu.work import Setting, Work
from tests.waiting import in_an_hour
from utils.paths import ROOT

CUDA = torch.device("cuda", 0)


@pytest.fixture
def setting(tmp_path):
    return Setting(torch.device("cpu"), True, tmp_path)


@pytest.fixture
def recorder(setting):
    return Work(setting, setting.folder / "events.jsonl")


def events_of(recorder):
    return command.read_events(recorder.file)


def of_kind(recorder, kind):
    return [event for event in events_of(recorder) if event["event"] == kind]


def part(name, share, **items):
    return Part(name, name.title(), share, lambda _: items)


# Time -----------------------------------------------------------------------------------------------------------------
def test_what_a_part_leaves_goes_to_those_that_follow():
    first, second, third = parts = [part("a", 1), part("b", 2), part("c", 5)]
    assert allowance(first, parts, 80) == 10
    assert allowance(second, parts[1:], 77) == 22  # a took 3 of its 10
    assert allowance(third, parts[2:], 60) == 60
    assert allowance(third, parts[2:], -5) == 0


def test_items_that_begin_too_late_are_not_run(recorder, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(plan.time, "time", lambda: clock[0])

    def takes(seconds):
        def item(given):
            clock[0] += seconds
            given.check("ran", True, "")

        return item

    parts = [part("a", 1, one=takes(6), two=takes(6), three=takes(6)), part("b", 1, four=takes(1))]
    run_parts(parts, recorder, 1020.0, {("b", "other")})
    kinds = [(event["item"], event["event"]) for event in events_of(recorder)]
    assert ("two", "end") in kinds  # began after 6 of 10 seconds
    assert ("three", "not run") in kinds
    assert ("four", "end") in kinds
    assert of_kind(recorder, "begin")[0]["until"] == 1012.5  # a quarter of the part's time late at most


def test_items_that_ran_before_a_restart_are_left_out(recorder):
    def refuse(_):
        raise AssertionError

    run_parts([part("a", 1, one=refuse, two=lambda w: w.note("ran"))], recorder, in_an_hour(), {("a", "one")})
    assert [event["item"] for event in of_kind(recorder, "begin")] == ["two"]


def test_names_and_shares_of_the_parts():
    assert len({p.name for p in PARTS}) == len(PARTS)
    assert all(p.share > 0 for p in PARTS)
    full = {p.name: list(p.items(Setting(CUDA, False, ROOT))) for p in PARTS if p.name != "ddp"}
    assert list(full["attention"])[:2] == ["kernels", "cores of window 8"]
    assert {"cores of window 7", "cores of window 10", "flex and compiled, window 16"} <= set(full["attention"])
    assert len(full["speed"]) == 18  # five sizes of both families and Swin T: latency, training, CUDA graphs
    assert len(full["large"]) == 5


# Figures, time and memory ---------------------------------------------------------------------------------------------
def test_figures_hold_repeats_and_labels(recorder):
    recorder.place = {"part": "a", "item": "b"}
    recorder.figure("time", [3.0, 1.0, 2.0], "ms", batch=2)
    recorder.figure("share", 0.5, "")
    first, second = of_kind(recorder, "figure")
    assert (first["median"], first["min"], first["max"], first["repeats"]) == (2.0, 1.0, 3.0, 3)
    assert (first["labels"], first["part"], first["item"]) == ({"batch": 2}, "a", "b")
    assert (second["median"], second["repeats"]) == (0.5, 1)


def test_short_calls_are_repeated_between_two_readings_of_the_clock(setting, monkeypatch):
    clock, calls = [0.0], []
    monkeypatch.setattr(work.time, "perf_counter", lambda: clock[0])

    def call():
        calls.append(1)
        clock[0] += 0.001

    assert work.time_calls(call, setting, warmup=2, least=3, most=3) == pytest.approx([0.001] * 3)
    assert len(calls) == 2 + 1 + 3 * 5


def test_memory_is_that_of_the_card(monkeypatch):
    log = []
    for name in ("synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda device, name=name: log.append((name, device)))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 30 * 2**20)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 10 * 2**20)
    assert work.peak_memory(lambda: log.append("call"), CUDA) == 30
    assert log == [("synchronize", CUDA), ("reset_peak_memory_stats", CUDA), "call", ("synchronize", CUDA)]
    assert work.extra_memory(lambda: None, CUDA) == 20
    assert work.peak_memory(lambda: None, torch.device("cpu")) is None


def test_too_little_memory_is_not_a_failure(recorder):
    with recorder.may_not_fit("a large model"):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(RuntimeError, match="other"), recorder.may_not_fit("a large model"):
        raise RuntimeError("other")
    (event,) = of_kind(recorder, "unavailable")
    assert event["name"] == "a large model"
    assert item_report("x", [event | {"event": "unavailable"}, {"event": "end", "seconds": 1}])["status"] == "not run"


class Log(list):
    """Stand-ins for torch.cuda that log how a graph is captured."""

    def stream(self, name):
        return SimpleNamespace(wait_stream=lambda other: self.append(f"{name} waits for {other.name}"), name=name)

    def context(self, what):
        log = self

        class Context:
            def __enter__(self):
                log.append(f"enter {what}")

            def __exit__(self, *error):
                log.append(f"leave {what}")

        return Context()


@pytest.fixture
def fake_cuda(monkeypatch):
    log = Log()
    main, side = log.stream("main"), log.stream("side")
    graph = SimpleNamespace(replay=lambda: log.append("replay"))
    fakes = {
        "Stream": lambda: side,
        "current_stream": lambda: main,
        "stream": lambda which: log.context(f"stream {which.name}"),
        "CUDAGraph": lambda: graph,
        "graph": lambda given: log.context("graph" if given is graph else "another graph"),
        "synchronize": lambda device=None: None,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    return log


def test_a_graph_is_captured_after_a_warm_up_on_a_side_stream(fake_cuda):
    replay, output = speed.capture(lambda: fake_cuda.append("call") or torch.ones(1))
    replay()
    assert output.item() == 1
    assert fake_cuda == [
        *("side waits for main", "enter stream side", "call", "call", "call", "leave stream side"),
        *("main waits for side", "enter graph", "call", "leave graph", "replay"),
    ]


@pytest.mark.parametrize("stale", [False, True])
def test_a_replay_must_read_its_input_again(recorder, fake_cuda, monkeypatch, stale):
    recorder.setting = SimpleNamespace(cuda=True, device=torch.device("cpu"), seconds=0.0)
    images = torch.rand(1, 3, 8, 8)

    def capture(call):
        output = call().clone()
        return (lambda: None if stale else output.copy_(call())), output

    monkeypatch.setattr(speed, "capture", capture)
    speed.time_graph(recorder, lambda x: [x.square()], images, model="n", batch=1)
    assert [event["ok"] for event in of_kind(recorder, "check")] == [not stale]
    assert [event["labels"]["way"] for event in of_kind(recorder, "figure")] == ["plain", "CUDA graph"]


def test_ratios_pair_equal_conditions(recorder):
    medians = {"n fp16 batch 1": 2.0, "n fp16 batch 32": 4.0, "n-swin fp16 batch 1": 3.0}
    speed.record_ratios(recorder, "ratio", ("n", "n-swin"), medians)
    (figure,) = of_kind(recorder, "figure")
    assert (figure["median"], figure["labels"]) == (1.5, {"models": "n-swin / n", "what": "fp16 batch 1"})


def test_an_error_that_is_not_a_number_is_infinite():
    one = torch.ones(2)
    assert relative_gap(one * 1.5, one) == 0.5
    assert relative_gap(one * float("nan"), one) == float("inf")
    assert relative_gap(None, one) == float("inf")


def test_a_batch_of_autobatch_that_does_not_fit_is_a_failure(recorder, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB\nmore")

    monkeypatch.setattr(memory, "DetectionModel", lambda *_, **__: torch.nn.Linear(1, 1))
    monkeypatch.setattr(memory, "make_trainer", full)
    memory.measure_autobatch(recorder, "yolov5n")
    (check,) = of_kind(recorder, "check")
    assert not check["ok"]
    assert check["text"] == "2 images of 64 px: CUDA out of memory. Tried to allocate 1 GiB"


@pytest.mark.parametrize(("used", "ok"), [(79, [True, True]), (98, [False, True]), (30, [True, False])])
def test_a_batch_of_autobatch_takes_about_what_was_promised(recorder, monkeypatch, used, ok):
    monkeypatch.setattr(memory, "DetectionModel", lambda *_, **__: torch.nn.Linear(1, 1))
    monkeypatch.setattr(memory, "make_trainer", lambda *_: SimpleNamespace(step=lambda: None))
    monkeypatch.setattr(memory, "peak_memory", lambda call, device: call() and float(used))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 100 * 2**20))
    memory.measure_autobatch(recorder, "yolov5n")
    assert [event["ok"] for event in of_kind(recorder, "check")] == ok


# Tests marked gpu, machine, hub ---------------------------------------------------------------------------------------
JUNIT = """<testsuites><testsuite>
<testcase classname="tests.a" name="good"/>
<testcase classname="tests.a" name="bad"><failure message="assert 1 == 2">text</failure></testcase>
<testcase classname="tests.a" name="broken"><error message="fixture"/></testcase>
<testcase classname="tests.a" name="late"><skipped message="not run: the time budget is spent"/></testcase>
<testcase classname="tests.a" name="away"><skipped message="could not import 'tensorrt'"/></testcase>
</testsuite></testsuites>"""


def test_counts_and_failures_of_pytest(recorder, tmp_path):
    recorder.setting = Setting(CUDA, True, tmp_path)
    (tmp_path / "tests.xml").write_text(JUNIT)
    programs.record_tests(recorder, tmp_path / "tests.xml", 1)
    counts = {event["labels"]["what"]: event["median"] for event in of_kind(recorder, "figure")}
    assert counts == {"run": 3, "failed": 2, "skipped": 2}
    checks = {event["name"]: (event["ok"], event["text"]) for event in of_kind(recorder, "check")}
    assert checks["tests.a.bad"] == (False, "assert 1 == 2")
    assert checks["tests.a.broken"] == (False, "fixture")
    assert not checks["tests marked gpu"][0]
    assert of_kind(recorder, "unavailable")[0]["name"] == "1 tests marked gpu"


def test_no_test_run_on_a_card_is_a_failure_and_on_a_cpu_not_run(recorder, setting, tmp_path):
    skipped = '<testsuite><testcase classname="a" name="b"><skipped message="needs CUDA"/></testcase></testsuite>'
    (tmp_path / "tests.xml").write_text(skipped)
    programs.record_tests(recorder, tmp_path / "tests.xml", 0)
    assert not of_kind(recorder, "check")
    assert len(of_kind(recorder, "unavailable")) == 1
    recorder.setting = Setting(CUDA, True, tmp_path)
    programs.record_tests(recorder, tmp_path / "tests.xml", 0)
    assert not of_kind(recorder, "check")[0]["ok"]


def test_files_with_gpu_tests():
    files = programs.files_with_gpu_tests()
    assert str(ROOT / "tests/models/test_devices.py") in files
    assert len(files) < 10


def test_facts_of_a_card(monkeypatch):
    card = SimpleNamespace(name="H200", total_memory=2**34, major=9, minor=0, multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(programs.shutil, "which", lambda name: "/bin/nvidia-smi")
    done = SimpleNamespace(returncode=0, stdout="580.1\n580.1\n", stderr="")
    monkeypatch.setattr(programs.subprocess, "run", lambda *args, **keywords: done)
    facts = programs.machine_facts(CUDA)
    assert (facts["device"], facts["memory MiB"], facts["compute capability"]) == ("H200", 16384, "9.0")
    assert facts["driver"] == "580.1"
    assert facts["packages"]["torch"]
    assert facts["packages"].keys() >= {"numpy", "torchvision"}


def test_detections_are_matched_by_place_and_class():
    expected = torch.tensor([[0, 0, 9, 9, 0.9, 1], [20, 20, 30, 30, 0.8, 0], [5, 5, 6, 6, 0.7, 2]])
    found = torch.tensor([[1, 0, 9, 8, 0.5, 1], [20, 20, 30, 30, 0.8, 2]])
    assert programs.count_matches(expected, found) == 1
    assert programs.count_matches(expected, found[:0]) == 0


# Report ---------------------------------------------------------------------------------------------------------------
GOOD = {"event": "check", "name": "finite", "ok": True, "text": "1"}
BAD = {"event": "check", "name": "finite", "ok": False, "text": "nan | here"}
END = {"event": "end", "seconds": 1.0}
FIGURE = {
    "event": "figure", "name": "time", "unit": "ms", "repeats": 3, "labels": {"batch": 1}, "median": 2.0, "min": 1.0,
    "max": 3.5,
}  # fmt: skip


@pytest.mark.parametrize(
    ("events", "status"),
    [
        ([GOOD, END], "passed"),
        ([FIGURE, END], "passed"),
        ([GOOD, BAD, END], "failed"),
        ([GOOD, {"event": "error", "text": "RuntimeError: x"}], "error"),
        ([GOOD, {"event": "not run", "why": "no time"}], "not run"),  # ended before it was through
        ([{"event": "unavailable", "name": "a", "why": "b"}, END], "not run"),
        ([GOOD, {"event": "unavailable", "name": "a", "why": "b"}, END], "passed"),
        ([END], "not run"),  # nothing was measured
        ([], "not run"),
    ],
)
def test_status_of_an_item(events, status):
    report = item_report("x", events)
    assert report["status"] == status
    assert bool(report["message"]) == (status != "passed")


def in_place(item, *events):
    return [{**event, "part": "a", "item": item} for event in events]


def test_report_and_page(tmp_path):
    machine = {"event": "machine", "facts": {"device": "H200", "driver": "580", "packages": {"torch": "2.14"}}}
    events = in_place("one", machine, FIGURE, GOOD, END) + in_place("two", BAD, END)
    report = make_report([("a", "Part A", ["one", "two", "three"]), ("b", "B", ["x"])], events, tiny=False)
    assert report["count"] == {"passed": 1, "failed": 1, "error": 0, "not run": 2}
    assert has_failed(report)
    save_report(report, tmp_path)
    assert json.loads((tmp_path / "gpu.json").read_text()) == report
    page = (tmp_path / "gpu.md").read_text()
    assert page.startswith("# GPU acceptance: H200\n")
    assert "| batch | median | least | most | repeats |\n" in page
    assert "| 1 | 2 | 1 | 3.5 | 3 |\n" in page
    assert "- Part A, two: failed: finite (nan \\| here)\n" in page
    not_run = page.split("## Not run\n")[1].split("\n## ")[0]
    assert "Part A, three" in not_run
    assert "B, x" in not_run
    assert "rehearsal" not in page
    assert "rehearsal" in make_page({**report, "tiny": True})


def test_a_part_has_passed_only_as_a_whole():
    def status(*events):
        return make_report([("a", "A", ["one", "two"])], [e for group in events for e in group])["parts"][0]["status"]

    one = in_place("one", GOOD, END)
    assert status(one, in_place("two", GOOD, END)) == "passed"
    assert status(one) == "passed in part"
    assert status(one, in_place("two", BAD, END)) == "failed"
    missing = {"event": "unavailable", "name": "a", "why": "b"}
    assert status(one, in_place("two", GOOD, missing, END)) == "passed in part"
    assert status() == "not run"


# Processes ------------------------------------------------------------------------------------------------------------
CHILD = """
import json, os, signal, sys, time
file, deadline = sys.argv[2], float(sys.argv[4])
done = {json.loads(line)["item"] for line in open(file)} if os.path.exists(file) else set()
def write(item, event, **content):
    with open(file, "a") as stream:
        stream.write(json.dumps({"event": event, "part": item[0], "item": item, **content}) + "\\n")
for item in ("a-raises", "b-crashes", "c-hangs", "c-late", "d-good"):
    if item in done:
        continue
    write(item, "begin", until=time.time() + (0.3 if item == "c-hangs" else 30))
    if item == "a-raises":
        write(item, "error", text="ValueError: planted")
        sys.exit(1)
    if item == "b-crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    if item == "c-hangs":
        time.sleep(60)
    write(item, "check", name="ok", ok=True, text="")
    write(item, "end", seconds=0.1)
"""


OPTIONS = SimpleNamespace(minutes=1.0, device="", tiny=True, parts=[], out="")


def test_each_fault_ends_one_item_and_the_rest_goes_on(tmp_path, setting):
    script = tmp_path / "child.py"
    script.write_text(CHILD)
    parts = [
        part("a", 1, **{"a-raises": None}),
        part("b", 1, **{"b-crashes": None}),
        part("c", 1, **{"c-hangs": None, "c-late": None}),
        part("d", 1, **{"d-good": None}),
    ]
    report = command.supervise(OPTIONS, [sys.executable, str(script)], tmp_path, parts, setting)
    found = {item["name"]: (item["status"], item["message"]) for p in report["parts"] for item in p["items"]}
    assert found["a-raises"] == ("error", "ValueError: planted")
    assert found["b-crashes"] == ("error", "the process ended with status -11, see log.txt")
    assert found["c-hangs"] == ("not run", "ended when the time of its part was spent")
    assert found["c-late"][0] == "not run"
    assert found["d-good"] == ("passed", "")
    assert (tmp_path / "gpu.json").is_file()


def test_a_process_that_never_begins_is_not_started_for_ever(tmp_path, setting):
    script = tmp_path / "child.py"
    script.write_text("raise SystemExit(3)")
    with pytest.raises(ValueError, match=r"ended before the first one, see .*log\.txt"):
        command.supervise(OPTIONS, [sys.executable, str(script)], tmp_path, [part("a", 1, one=None)], setting)
    assert json.loads((tmp_path / "gpu.json").read_text())["count"]["not run"] == 1


def test_a_line_that_is_being_written_is_left_for_later(tmp_path):
    (tmp_path / "events").write_text('{"event": "begin", "part": "a", "item": "b", "until": 1}\n{"event": "en')
    (event,) = command.read_events(tmp_path / "events")
    assert command.open_item([event]) == event
    assert command.open_item([event, {"event": "check"}]) == event
    assert command.open_item([event, {"event": "end"}]) is None
    assert command.read_events(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--device", "0,1"], "one CUDA device"),
        (["--device", "mps"], "one CUDA device"),
        (["--device", "7"], "PyTorch finds 0 CUDA devices here"),
        (["--device", "card"], "expected"),
        (["--minutes", "0"], "must be above 0"),
        (["--minutes", "nan"], "must be above 0"),
    ],
)
def test_wrong_options(argv, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=message):
        command.main(argv)


def test_device_is_chosen_without_a_context(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", None)  # a call would fail
    assert command.choose_device("") == CUDA
    assert command.choose_device("1") == torch.device("cuda", 1)
    assert command.choose_device("cpu") == torch.device("cpu")


# For real, tiny -------------------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("tested", [p for p in PARTS if p.name not in ("tests", "machine")], ids=lambda p: p.name)
def test_part_on_a_cpu(tested, setting, recorder):
    """All of it, whatever the time: nothing fails, and only what needs a card is not run."""
    run_parts([tested], recorder, in_an_hour(), set())
    items = list(tested.items(setting))
    report = make_report([(tested.name, tested.title, items)], events_of(recorder), tiny=True)
    found = {item["name"]: (item["status"], item["message"]) for item in report["parts"][0]["items"]}
    expected = "not run" if tested.name == "tensorrt" else "passed"
    assert {status for status, _ in found.values()} == {expected}, found
    assert not has_failed(report)
    if expected == "passed":
        assert report["parts"][0]["status"] == "passed"


@pytest.mark.slow
def test_the_command_on_a_cpu(tmp_path):
    """What there is no time for on this machine is listed; nothing fails."""
    out = tmp_path / "with space é"
    line = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--minutes", "1", "--out", str(out)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((out / "gpu.json").read_text(encoding="utf-8"))
    assert [p["name"] for p in report["parts"]] == [p.name for p in PARTS]
    assert report["count"]["failed"] == report["count"]["error"] == 0
    assert report["parts"][0]["status"] == "passed"
    assert report["machine"]["device"].startswith("CPU")
    assert report["tiny"]
    assert (out / "gpu.md").read_text(encoding="utf-8").startswith("# GPU acceptance: CPU")
