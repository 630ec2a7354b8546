#!/usr/bin/env python3
"""Times mien beside what else there is, and writes the tables of README.md and docs/performance.md.

usage: compare.py --mien BINARY [--aarch64 BINARY] [--peers ../shared/peers] [--frames FILE.mjpeg] [--rounds 5] [--write]

Everything but `mien run` is on one thread, pinned to one core. Programs take turns, round by round, so that a busy
moment hits all of them; each figure is the median over the rounds, each ratio the median of the rounds' ratios. With a
binary for aarch64, its instructions are counted too (see aarch64.py).
"""

import argparse, datetime, json, os, pathlib, statistics, subprocess, sys, time

import numpy as np
import onnx
import onnxruntime as ort

import aarch64
from forms import as_float, as_qlinear

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mien", required=True, help="the release binary")
    parser.add_argument("--aarch64", metavar="BINARY", help="the release binary for aarch64")
    parser.add_argument("--peers", type=pathlib.Path, default=REPOSITORY / "../shared/peers")
    parser.add_argument("--frames", type=pathlib.Path, default=REPOSITORY / "../shared/data/video/people-640x480.mjpeg")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=60, help="runs in a round")
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="write the tables, not only print them")
    return parser.parse_args()


# Timing -------------------------------------------------------------------------------------------------------------


class Session:
    """A network in onnxruntime, on one thread."""

    def __init__(self, model, shape=None):
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        data = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
        self.session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        (given,) = self.session.get_inputs()
        random = np.random.default_rng(0).random(shape or given.shape, dtype=np.float32)
        self.feed = {given.name: (random * 255).astype(np.uint8) if "uint8" in given.type else random}

    def run(self):
        return self.session.run(None, self.feed)

    def milliseconds(self, runs):
        return median_of(self.run, runs)


def median_of(work, runs):
    for _ in range(5):
        work()
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times)


def opencv_detector(peers, width, height):
    try:
        import cv2
    except ImportError:
        return None
    cv2.setNumThreads(1)
    path = str(peers / "yunet_n_320_320.onnx")
    detector = cv2.FaceDetectorYN.create(path, "", (width, height), 0.6, 0.3, 200)
    picture = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return lambda: detector.detect(picture)


def resized(model, height, width):
    """YuNet for another input size."""
    model = onnx.load(model)
    shape = model.graph.input[0].type.tensor_type.shape.dim
    shape[2].dim_value, shape[3].dim_value = height, width
    del model.graph.value_info[:]
    for output in model.graph.output:
        for dim in output.type.tensor_type.shape.dim:
            dim.ClearField("dim_value")
            dim.dim_param = "any"
    return model


def mien_networks(binary, runs, kernels=None):
    """Median milliseconds for each picture, by the work's name."""
    environment = dict(os.environ)
    if kernels:
        environment["MIEN_KERNELS"] = kernels
    command = [binary, "bench", "--json", "--engine", "int8", "--runs", str(runs), "--detect-input", "256x320"]
    report = json.loads(subprocess.run(command, check=True, capture_output=True, env=environment).stdout)
    return report["cpu"], {work["name"]: work["engines"][0]["median_ms"] for work in report["work"]}


def mien_frames(binary, frames):
    """The time of whole frames, and of each of their steps."""
    command = [binary, "bench", "--json", "--engine", "int8", "--work", "none", "--runs", "1"]
    command += ["--frames", f"mjpeg:{frames}"]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["frames"]


def mien_run(binary, frames):
    """`mien run` as a user starts it, on all cores: the frames' age in the demo, a camera's speed, then its start on a
    recording and its peak memory there."""
    command = [binary, "run", "--headless", "--json", "--source"]
    live = subprocess.run([*command, "demo", "--frames", "150"], check=True, capture_output=True, text=True)
    age = json.loads(live.stdout.splitlines()[-1])["summary"]["age_ms"]["p95"]
    started = time.perf_counter()
    program = subprocess.Popen([*command, f"mjpeg:{frames}"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    first, memory = None, 0
    for line in program.stdout:
        if first is None and json.loads(line)["faces"]:
            first = 1e3 * (time.perf_counter() - started)
        # Not the maximum that wait4 tells, which counts this program's own memory before exec.
        memory = peak_memory(program.pid) or memory
    if program.wait() != 0:
        sys.exit(f"{' '.join(program.args)} ended with status {program.returncode}")
    return {"frame age p95": age, "first label": first, "memory": memory}


def peak_memory(pid):
    """Most resident memory so far, in MB; None of a program that has ended."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 / 1e6 for line in status if line.startswith("VmHWM")), None)


def peer_loop(peers, classifier, frames):
    command = [sys.executable, str(peers / "loop_opencv_ort.py"), str(classifier), str(frames), "--threads", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])["median_ms"]["total"]


def main():
    options = arguments()
    classifier = onnx.load(REPOSITORY / "models/attributes.onnx")
    sessions = {
        "QDQ": Session(classifier),
        "QLinearConv": Session(as_qlinear(classifier)),
        "f32": Session(as_float(classifier)),
    }
    check_forms(sessions)
    yunet = Session(resized(options.peers / "yunet_n_320_320.onnx", 256, 320), [1, 3, 256, 320])
    opencv = opencv_detector(options.peers, 320, 256)
    kernels = subprocess.run(
        [options.mien, "model", "explain", "--json", "--runs", "1"], check=True, capture_output=True
    )
    kernels = json.loads(kernels.stdout)["kernels"]

    rounds, profiles, cpu = [], [], ""
    all_cores = os.sched_getaffinity(0)
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
        os.sched_setaffinity(0, {options.core})
        figures = {f"onnxruntime {form}": session.milliseconds(options.runs) for form, session in sessions.items()}
        cpu, mine = mien_networks(options.mien, options.runs)
        figures["mien one face"], figures["mien eight faces"] = (
            mine["classifier, one face"],
            mine["classifier, eight faces"],
        )
        figures["mien detector"] = mine["detector"]
        if kernels.startswith("avx") and kernels != "avx2":
            figures["mien avx2"] = mien_networks(options.mien, options.runs, "avx2")[1]["classifier, one face"]
        figures["YuNet onnxruntime"] = yunet.milliseconds(options.runs)
        if opencv:
            figures["YuNet OpenCV"] = median_of(opencv, options.runs)
        profiles.append(mien_frames(options.mien, options.frames))
        figures["mien loop"] = profiles[-1]["median_ms"]
        loop = peer_loop(options.peers, REPOSITORY / "models/attributes.onnx", options.frames)
        if loop:
            figures["peer loop"] = loop
        os.sched_setaffinity(0, all_cores)
        rounds.append(figures | mien_run(options.mien, options.frames))
    table = tabulate(rounds, cpu, kernels)
    tables = [table, tabulate_profile(profiles)]
    if options.aarch64:
        reference, counts = aarch64.count(options.aarch64)
        table += "\n" + "\n".join(count_rows(reference, counts))
        tables = [table, tables[1], aarch64.tabulate_counts(reference, counts), aarch64.tabulate_loops(options.aarch64)]
    print(*tables, sep="\n\n")
    if options.write:
        insert(REPOSITORY / "README.md", table)
        insert(REPOSITORY / "docs/performance.md", "\n\n".join(tables[:2]))
        if options.aarch64:
            insert(REPOSITORY / "docs/performance.md", "\n\n".join(tables[2:]), " aarch64")


def check_forms(sessions):
    """The other forms must be the same network: equal but for rounding."""
    outputs = {form: session.run()[0] for form, session in sessions.items()}
    for form, output in outputs.items():
        apart = float(np.abs(output - outputs["QDQ"]).max())
        if apart > 0.5 * float(outputs["QDQ"].std()):
            sys.exit(f"the {form} form of the classifier is another network: off by {apart}")


def tabulate(rounds, cpu, kernels):
    def milliseconds(name):
        return statistics.median(figures[name] for figures in rounds)

    def ratio(mine, others):
        return statistics.median(figures[mine] / min(figures[other] for other in others) for figures in rounds)

    def row(work, mine, others, target):
        others = [other for other in others if other in rounds[0]]
        if mine not in rounds[0] or not others:
            return None
        beside = ", ".join(f"{other} {milliseconds(other):.2f}" for other in others)
        return f"| {work} | {milliseconds(mine):.2f} | {beside} | {ratio(mine, others):.2f} × | ≤ {target} × |"

    forms = ["onnxruntime QDQ", "onnxruntime QLinearConv", "onnxruntime f32"]
    rows = [
        row("classifier, one face", "mien one face", forms, 0.45),
        row("the same with AVX2 alone", "mien avx2", ["onnxruntime f32"], 0.8),
        row("eight faces at once, each", "mien eight faces", ["mien one face"], 0.85),
        row("detector, 320×256", "mien detector", ["YuNet onnxruntime", "YuNet OpenCV"], 0.4),
        row("frame of 640×480 with 2.4 faces: decode, detect, classify, track", "mien loop", ["peer loop"], 0.33),
    ]
    for work, name, target, unit in (
        ("frame age in `mien run` at 30 fps, p95", "frame age p95", 50, "ms"),
        ("start of `mien run` to the first label", "first label", 300, "ms"),
        ("peak memory of `mien run`", "memory", 60, "MB"),
    ):
        rows.append(f"| {work} | {milliseconds(name):.0f} {unit} | | | ≤ {target} {unit} |")
    today = datetime.date.today().isoformat()
    head = [
        f"{cpu}, {kernels} kernels, one thread, onnxruntime {ort.__version__}, {today}, `make bench`:",
        "",
        "| work | mien, ms | beside it, ms | ratio | wanted |",
        "|---|---|---|---|---|",
    ]
    return "\n".join(head + [line for line in rows if line])


def count_rows(reference, counts):
    """What the classifier takes on aarch64, of plain tract in f32."""
    for (kernels, _), count in zip(aarch64.KINDS, counts):
        mine, others = f"{count / 1e6:.1f} million", f"tract f32 {reference / 1e6:.1f} million"
        yield (
            f"| instructions for one face on aarch64, {kernels} kernels | {mine} | {others}"
            f" | 1/{reference / count:.2f} | ≤ 1/3 |"
        )


def tabulate_profile(profiles):
    """What each step of a whole frame takes."""
    lines = ["| step of a frame | ms | share |", "|---|---|---|"]
    for steps in zip(*(profile["stages"] for profile in profiles)):
        milliseconds = statistics.median(step["median_ms"] for step in steps)
        share = statistics.median(step["share"] for step in steps)
        lines.append(f"| {steps[0]['stage']} | {milliseconds:.2f} | {share:.0%} |")
    return "\n".join(lines)


def insert(path, tables, what=""):
    """Puts the tables between the marks of `make bench`."""
    marks = (f"<!-- make bench{what}: begin -->", f"<!-- make bench{what}: end -->")
    text = path.read_text()
    begin, end = (text.index(mark) for mark in marks)
    path.write_text(f"{text[: begin + len(marks[0])]}\n{tables}\n{text[end:]}")


if __name__ == "__main__":
    main()
