#!/usr/bin/env python3
"""Times mien beside what else there is, and writes the tables of README.md and docs/performance.md.

usage: compare.py --mien BINARY [--peers ../shared/peers] [--frames FILE.mjpeg] [--rounds 5] [--write]

Everything runs on one thread, pinned to one core. Programs take turns, round by round, so that a busy moment hits all
of them; each figure is the median over the rounds, each ratio the median of the rounds' ratios.
"""

import argparse, datetime, json, os, pathlib, statistics, subprocess, sys, time

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
MARK = ("<!-- make bench: begin -->", "<!-- make bench: end -->")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mien", required=True, help="the release binary")
    parser.add_argument("--peers", type=pathlib.Path, default=REPOSITORY / "../shared/peers")
    parser.add_argument("--frames", type=pathlib.Path, default=REPOSITORY / "../shared/data/video/people-640x480.mjpeg")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=60, help="runs in a round")
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="write the tables, not only print them")
    return parser.parse_args()


# Other forms of a quantised network -------------------------------------------------------------------------------


def as_float(model):
    """The same network in f32: weights as the numbers they stand for, activations limited as quantising does."""
    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes, new, real = [], [], set()
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            scale, zero = constants[node.input[1]], int(constants[node.input[2]])
            for name, level in (("low", 0), ("high", 255)):
                new.append(numpy_helper.from_array(np.float32((level - zero) * scale), f"{node.output[0]}/{name}"))
            limits = [f"{node.output[0]}/low", f"{node.output[0]}/high"]
            nodes.append(helper.make_node("Clip", [node.input[0], *limits], [node.output[0]]))
            real.add(node.output[0])
        elif node.op_type == "DequantizeLinear" and node.input[0] in constants:
            whole, scale = constants[node.input[0]].astype(np.float32), constants[node.input[1]]
            shape = (-1,) + (1,) * (whole.ndim - 1)
            new.append(numpy_helper.from_array(whole * scale.reshape(shape), node.output[0]))
        elif node.op_type == "DequantizeLinear" and node.input[0] in real:
            nodes.append(helper.make_node("Identity", [node.input[0]], [node.output[0]]))
        else:
            if node.op_type in ("Flatten", "Resize") and node.input[0] in real:
                real.add(node.output[0])
            nodes.append(node)
    return rebuilt(model, nodes, new)


def as_qlinear(model):
    """The same network with QLinearConv in place of DequantizeLinear, Conv, QuantizeLinear."""
    graph = model.graph
    makers = {node.output[0]: node for node in graph.node}
    readers = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    nodes, gone = [], set()
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        after = readers.get(node.output[0], [])
        if len(after) != 1 or after[0].op_type != "QuantizeLinear":
            continue
        x, w, b = (makers[name] for name in node.input)
        inputs = [*x.input, *w.input, *after[0].input[1:], b.input[0]]
        fused = helper.make_node("QLinearConv", inputs, [after[0].output[0]])
        fused.attribute.extend(node.attribute)
        nodes.append((after[0].output[0], fused))
        gone.update((node.output[0], after[0].output[0]))
    fused = dict(nodes)
    kept = []
    for node in graph.node:
        if node.output[0] in fused:
            kept.append(fused[node.output[0]])
        elif node.output[0] not in gone:
            kept.append(node)
    return rebuilt(model, kept, [])


def rebuilt(model, nodes, new):
    """A copy with these nodes, without what nobody reads."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    outputs = {output.name for output in copy.graph.output}
    while True:
        read = {name for node in nodes for name in node.input} | outputs
        alive = [node for node in nodes if read & set(node.output)]
        if len(alive) == len(nodes):
            break
        nodes = alive
    tensors = [tensor for tensor in [*copy.graph.initializer, *new] if tensor.name in read]
    del copy.graph.node[:], copy.graph.initializer[:]
    copy.graph.node.extend(nodes)
    copy.graph.initializer.extend(tensors)
    onnx.checker.check_model(copy)
    return copy


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
    os.sched_setaffinity(0, {options.core})
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
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
        rounds.append(figures)
    table = tabulate(rounds, cpu, kernels)
    profile = tabulate_profile(profiles)
    print(table, profile, sep="\n\n")
    if options.write:
        insert(REPOSITORY / "README.md", table)
        insert(REPOSITORY / "docs/performance.md", f"{table}\n\n{profile}")


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
    today = datetime.date.today().isoformat()
    head = [
        f"{cpu}, {kernels} kernels, one thread, onnxruntime {ort.__version__}, {today}, `make bench`:",
        "",
        "| work | mien, ms | beside it, ms | ratio | wanted |",
        "|---|---|---|---|---|",
    ]
    return "\n".join(head + [line for line in rows if line])


def tabulate_profile(profiles):
    """What each step of a whole frame takes."""
    lines = ["| step of a frame | ms | share |", "|---|---|---|"]
    for steps in zip(*(profile["stages"] for profile in profiles)):
        milliseconds = statistics.median(step["median_ms"] for step in steps)
        share = statistics.median(step["share"] for step in steps)
        lines.append(f"| {steps[0]['stage']} | {milliseconds:.2f} | {share:.0%} |")
    return "\n".join(lines)


def insert(path, table):
    text = path.read_text()
    begin, end = (text.index(mark) for mark in MARK)
    path.write_text(f"{text[: begin + len(MARK[0])]}\n{table}\n{text[end:]}")


if __name__ == "__main__":
    main()
