"""A program in its own interpreter: what it is told, what comes back, and what its failures say."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from datasets.errors import InputError
from datasets.files import Unwritable
from datasets.program import ProgramFailed, ProgramTimeout
from methods.external import External
from methods.interface import VideoMethod, VideoRequest
from methods.precomputed import Precomputed

EXAMPLE = Path(__file__).parents[2] / "docs" / "external_example.py"


def external(*command, **changes):
    return External(name="mine", **{"command": [sys.executable, *map(str, command)], **changes})


@pytest.fixture
def script(tmp_path):
    """Writes a program of a few lines, which finds its job in ``job``."""

    def write(body, name="program.py"):
        path = tmp_path / name
        start = "import json, os, subprocess, sys, time\njob = json.load(open(sys.argv[-1]))\n"
        path.write_text(start + body)
        return path

    return write


def request(folder, frames=5):
    pixels = np.random.default_rng(0).integers(0, 256, (frames, 16, 24, 3), dtype=np.uint8)
    return VideoRequest("fox", pixels, 7.5, "a fox", "a dog, running", 3, "cpu", folder / "cell" / "program")


def only(folder):
    """The one folder of an attempt."""
    (attempt,) = folder.iterdir()
    return attempt


def test_programs_and_finished_videos_need_no_backbone_and_only_the_latter_are_made_elsewhere():
    program, finished = external("x"), Precomputed(name="precomputed")
    for method in (program, finished):
        assert isinstance(method, VideoMethod)
        assert not method.uses_backbone
    assert program.made_here
    assert not finished.made_here


def test_the_worked_example_inverts_the_reference_in_an_interpreter_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    wanted = request(tmp_path)
    frames, seconds = external("-I", EXAMPLE).video(wanted)
    assert np.array_equal(frames, 255 - wanted.reference)
    assert seconds > 0
    attempt = only(wanted.folder)
    assert sorted(path.name for path in attempt.iterdir()) == ["job.json", "log.txt", "output.mkv"]
    assert (attempt / "log.txt").read_text() == "fox: 5 frames for 'a dog, running'\n"


def test_the_job_says_all_there_is_to_know(tmp_path, script, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/ours")
    monkeypatch.setenv("KEPT", "kept")
    body = """
known = {name: os.environ.get(name) for name in ("PYTHONPATH", "KEPT", "CUDA_VISIBLE_DEVICES")}
print(json.dumps([job, known, os.getcwd(), sys.argv[1:-1]]))
"""
    place = tmp_path / "place"
    place.mkdir()
    method = external(
        script(body),
        "--fast",
        folder=str(place),
        options={"scale": 6.0, "weights": {"name": "w"}},
        environment={"CUDA_VISIBLE_DEVICES": 0},
        negative_prompt="blurry",
    )
    wanted = request(tmp_path)
    with pytest.raises(ProgramFailed, match=r"mine wrote no video to output\.mkv; program/\w+/log\.txt"):
        method.video(wanted)
    attempt = only(wanted.folder)
    job, known, folder, arguments = json.loads((attempt / "log.txt").read_text())
    assert job == {
        "schema": 1,
        "clip": "fox",
        "reference": str(attempt / "reference.mkv"),
        "caption": "a fox",
        "prompt": "a dog, running",
        "negative_prompt": "blurry",
        "seed": 3,
        "frames": 5,
        "height": 16,
        "width": 24,
        "fps": 7.5,
        "device": "cpu",
        "options": {"scale": 6.0, "weights": {"name": "w"}},
        "output": str(attempt / "output.mkv"),
    }
    assert known == {"PYTHONPATH": None, "KEPT": "kept", "CUDA_VISIBLE_DEVICES": "0"}
    assert Path(folder) == place
    assert arguments == ["--fast"]
    # The reference stays where the program failed, so that it can be run again by hand.
    from datasets.media.video import read_video

    frames, fps = read_video(attempt / "reference.mkv")
    assert np.array_equal(frames, wanted.reference)
    assert fps == 7.5


@pytest.mark.parametrize(
    "body, says",
    [
        ("print('out of luck', file=sys.stderr)\nsys.exit(3)", r"exit status 3; .*ends with: out of luck"),
        ("os.kill(os.getpid(), 9)", "signal 9; .*ends with: nothing"),
        ("open(job['output'], 'w').write('no video')", r"output\.mkv: cannot be read as a video"),
    ],
)
def test_a_program_that_fails_is_told_in_one_line(tmp_path, script, body, says):
    with pytest.raises(ProgramFailed, match=says) as error:
        external(script(body)).video(request(tmp_path))
    assert "\n" not in str(error.value)


def test_a_video_of_another_length_is_a_failure(tmp_path, script):
    body = """
import av, shutil
with av.open(job["reference"]) as video, av.open(job["output"], "w") as short:
    stream = short.add_stream("ffv1", rate=8)
    stream.width, stream.height, stream.pix_fmt = job["width"], job["height"], "bgr0"
    for number, frame in enumerate(video.decode(video=0)):
        if number < 4:
            short.mux(stream.encode(av.VideoFrame.from_ndarray(frame.to_ndarray(format="rgb24")).reformat(format="bgr0")))
    short.mux(stream.encode())
"""
    with pytest.raises(ProgramFailed, match="wrote 4 frames where 5 were asked for"):
        external(script(body)).video(request(tmp_path))


def test_a_program_that_takes_too_long_is_ended_with_all_it_started(tmp_path):
    # A shell is there at once, on a busy machine too.
    path = tmp_path / "slow.sh"
    path.write_text("sleep 600 &\necho $!\nsleep 600\n")
    wanted = request(tmp_path)
    started = time.monotonic()
    with pytest.raises(ProgramTimeout, match=r"longer than method\.timeout=3 seconds"):
        External(name="mine", command=["sh", str(path)], timeout=3).video(wanted)
    assert time.monotonic() - started < 60
    assert ended(int((only(wanted.folder) / "log.txt").read_text()))


def test_what_a_program_leaves_running_is_ended_with_it(tmp_path, script):
    body = """
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
"""
    wanted = request(tmp_path)
    with pytest.raises(ProgramFailed, match="wrote no video"):
        external(script(body)).video(wanted)
    assert ended(int((only(wanted.folder) / "log.txt").read_text()))


def test_the_video_of_an_orphan_is_never_a_later_attempt_s(tmp_path, script):
    """A first attempt whose process escapes its group writes its video when the second one runs."""
    late = tmp_path / "late.py"
    late.write_text("""
import shutil, sys, time
source, output, flag = sys.argv[1:]
while not __import__("os").path.exists(flag):
    time.sleep(0.01)
__import__("os").makedirs(__import__("os").path.dirname(output), exist_ok=True)
shutil.copy(source, output)
open(flag + ".done", "w").close()
""")
    kept, flag = tmp_path / "reference.mkv", tmp_path / "go"
    first = f"""
import shutil
shutil.copy(job["reference"], {str(kept)!r})
words = [sys.executable, {str(late)!r}, {str(kept)!r}, job["output"], {str(flag)!r}]
subprocess.Popen(words, start_new_session=True)
sys.exit(1)
"""
    second = f"""
open({str(flag)!r}, "w").close()
while not os.path.exists({str(flag) + ".done"!r}):
    time.sleep(0.01)
"""
    wanted = request(tmp_path)
    with pytest.raises(ProgramFailed, match="exit status 1"):
        external(script(first, "first.py")).video(wanted)
    with pytest.raises(ProgramFailed, match=r"wrote no video to output\.mkv"):
        external(script(second, "second.py")).video(wanted)


INTERRUPTED = """
import signal, sys
from pathlib import Path
sys.path[:0] = {paths!r}
import test_methods_external as tests

def interrupt(number, frame):
    raise KeyboardInterrupt

signal.signal(signal.SIGTERM, interrupt)
signal.signal(signal.SIGHUP, interrupt)
folder = Path({folder!r})
tests.External(name="mine", command=["sh", str(folder / "deaf.sh")]).video(tests.request(folder))
"""


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGHUP, signal.SIGTERM]])
def test_a_deaf_program_ends_with_a_harness_that_is_asked_to_end(tmp_path, signals):
    (tmp_path / "deaf.sh").write_text(
        "trap '' TERM HUP INT\nsleep 600 &\necho $$ $! > pids.new\nmv pids.new pids\n"
        "while :; do sleep 1; done\n"
    )
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    body = INTERRUPTED.format(paths=paths, folder=str(tmp_path))
    harness = subprocess.Popen([sys.executable, "-c", body], cwd=tmp_path, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (tmp_path / "pids").exists():
        assert harness.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    for number in signals:
        harness.send_signal(number)
        time.sleep(0.3)
    assert harness.wait(60) != 0
    pids = [int(word) for word in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2 and all(map(ended, pids))


def test_a_program_that_fails_on_a_full_disk_is_no_failed_program(tmp_path, script, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    wanted = request(tmp_path)
    full = usage._replace(free=wanted.reference.nbytes - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(Unwritable, match=r"No space left on device; it takes up to 5\.76 kB") as error:
        external(script("sys.exit(1)")).video(wanted)
    assert "exit status 1" in str(error.value.__cause__)


def ended(pid):
    """Whether a process is gone, or a zombie that nobody has collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        return True


def test_the_identity_follows_the_files_of_the_command(tmp_path, script):
    path = script("pass")
    method = external(path, "--steps", 5)
    assert set(method.identity()) == {sys.executable, str(path)}
    assert external(path, "--steps", 6).identity() == method.identity(), "options are in the configuration"
    before = method.identity()
    path.write_text("# changed\n")
    after = method.identity()
    assert before[sys.executable] == after[sys.executable]
    assert before[str(path)] != after[str(path)]


def test_relative_files_count_from_the_folder_and_programs_of_the_path_are_not_hashed(tmp_path, script):
    script("pass", "there.py")
    method = External(name="mine", command=["sh", "there.py"], folder=str(tmp_path))
    assert set(method.identity()) == {"there.py"}


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"command": None}, r"method\.command is not set"),
        ({"command": []}, r"method\.command is not set"),
        ({"command": ["no-such-program-9"]}, r"method\.command: no-such-program-9 does not exist"),
        ({"command": ["./no/such/python", "x.py"]}, r"method\.command: \./no/such/python does not exist"),
        ({"command": [__file__]}, r"method\.command: .*cannot be run"),
        ({"command": [sys.executable, "gone.py"]}, r"method\.command: gone\.py does not exist in"),
        ({"folder": "no/such/folder"}, r"method\.folder: .* is no folder"),
    ],
)
def test_what_cannot_be_run_is_bad_input_in_one_line(changes, says):
    method = External(**{"name": "mine", "command": [sys.executable, str(EXAMPLE)], **changes})
    with pytest.raises(InputError, match=says) as error:
        method.identity()
    assert "\n" not in str(error.value)
