#!/usr/bin/env python3
"""Whether TensorBoard reads what a run wrote for it. Needs tensorboard and pillow of PyPI; CI pins them.

    check-tensorboard.py RUN...              reads run folders with TensorBoard's own reader and compares them with metrics.jsonl, then
                                             starts the real program on them and asks it over HTTP
    check-tensorboard.py --golden FILE       writes the file that a test of fadam-train compares its bytes with
    check-tensorboard.py --golden-is FILE    whether that file is the one that would be written
"""

import collections
import io
import json
import math
import pathlib
import re
import struct
import subprocess
import sys
import time
import urllib.parse
import urllib.request

from tensorboard.backend.event_processing import event_accumulator, event_file_loader
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer import record_writer

ALL = dict.fromkeys(event_accumulator.DEFAULT_SIZE_GUIDANCE, 0)  # no kind of event is thinned out


def golden():
    """Events of every kind that fadam-train writes, as Google's library serialises them."""
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    values = [
        summary_pb2.Summary.Value(tag="train/loss", simple_value=0.25),
        summary_pb2.Summary.Value(tag="train/spikes", simple_value=0.0),
        summary_pb2.Summary.Value(tag="eval/loss", simple_value=math.nan),
        summary_pb2.Summary.Value(
            tag="fim/log10_f/w",
            histo=summary_pb2.HistogramProto(
                min=-11.75, max=-11.125, num=3, sum=-34.5, sum_squares=397.0, bucket_limit=[-11.5, -11.25, -11.0], bucket=[2, 0, 1]
            ),
        ),
        summary_pb2.Summary.Value(
            tag="look", image=summary_pb2.Summary.Image(height=2, width=3, colorspace=3, encoded_image_string=png_head(3, 2))
        ),
        summary_pb2.Summary.Value(
            tag="sample", metadata=summary_pb2.SummaryMetadata(plugin_data=summary_pb2.SummaryMetadata.PluginData(plugin_name="text"))
        ),
    ]
    text = values[-1].tensor
    text.dtype = 7  # DT_STRING
    text.tensor_shape.dim.add(size=1)
    text.string_val.append("    a\n    \n    b ▸ *c*\n".encode())
    events = [
        event_pb2.Event(wall_time=1.5, file_version="brain.Event:2"),
        event_pb2.Event(wall_time=2.25, session_log=start),
        event_pb2.Event(wall_time=1700000000.125, step=7, summary=summary_pb2.Summary(value=values)),
        event_pb2.Event(wall_time=1700000001.0, step=21, session_log=start),
    ]
    file = io.BytesIO()
    writer = record_writer.RecordWriter(file)
    for event in events:
        writer.write(event.SerializeToString())
    return file.getvalue()


def png_head(width, height):
    return b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR" + struct.pack(">II", width, height)


def f32(number):
    return struct.unpack("f", struct.pack("f", number))[0]


def same(a, b):
    return a == b or (math.isnan(a) and math.isnan(b))


def tags_of(line):
    """The tags and numbers of a line of metrics.jsonl; fadam-train/src/tensorboard/mod.rs has the table."""
    split = line["split"]
    for name, value in line.items():
        if name in ("step", "split"):
            continue
        if name == "loss":
            yield f"{split}/loss", math.nan if value is None else value
        elif name == "phase_s":
            yield from ((f"time/{phase}_s", secs) for phase, secs in value.items())
        elif value is None:
            continue
        else:
            yield {"clipped": "clip/clipped", "peak_rss_mb": "memory/peak_rss_mb"}.get(name, f"{split}/{name}"), value


def lines_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def stops(run):
    """Steps at which the run was stopped and went on. Its evaluation there is in the events alone, unless one was due."""
    files = sorted(run.glob("events.out.tfevents.*"))
    events = [event for file in files for event in event_file_loader.LegacyEventFileLoader(str(file)).Load()]
    starts = [event.step for event in events if event.HasField("session_log")]
    evaluated = {line["step"] for line in lines_of(run) if line["split"] == "eval"}
    return {step - 1 for step in starts[1:]} - evaluated


def check(run):
    """The run folder's events are its metrics.jsonl, and more."""
    lines, stopped = lines_of(run), stops(run)
    summary = json.loads((run / "summary.json").read_text())
    events = event_accumulator.EventAccumulator(str(run), size_guidance=ALL)
    events.Reload()
    expected = collections.defaultdict(list)
    for line in lines:
        if line["split"] in ("train", "eval"):
            for tag, value in tags_of(line):
                expected[tag].append((line["step"], f32(value)))
    counts = lambda tag, e: tag.startswith(("train/", "time/", "memory/", "clip/clipped")) or e.step not in stopped
    found = {tag: [(e.step, e.value) for e in events.Scalars(tag) if counts(tag, e)] for tag in events.Tags()["scalars"]}
    for tag, points in expected.items():
        assert tag in found, f"{run}: no tag {tag}"
        assert [step for step, _ in points] == [step for step, _ in found[tag]], f"{run}: {tag}: {points} {found[tag]}"
        assert all(same(a, b) for (_, a), (_, b) in zip(points, found[tag])), f"{run}: {tag}: {points} {found[tag]}"
    beyond = {tag for tag in found if tag not in expected and not tag.startswith("fim/")}
    assert not beyond, f"{run}: {beyond} are not in metrics.jsonl"
    wall = [e.wall_time for e in events.Scalars("train/loss")]
    assert wall == sorted(wall) and abs(wall[-1] - time.time()) < 86400, wall

    looked = [line["step"] for line in lines if line["split"] == "optimizer"]
    evaluated = [line["step"] for line in lines if line["split"] == "eval"]
    assert looked and set(looked) == set(evaluated) - {0}, (looked, evaluated)
    fim = [tag for tag in events.Tags()["histograms"] if tag.startswith("fim/log10_f/")]
    for at, step in enumerate(looked):
        above_0 = 0
        for tag in fim:
            of = [e.histogram_value for e in events.Histograms(tag) if e.step == step]
            for histogram in of:
                counts, edges = histogram.bucket, histogram.bucket_limit
                assert sum(counts) == histogram.num > 0, (run, tag, step)
                assert edges[0] - 0.25 <= histogram.min <= edges[0] and edges[-1] - 0.25 <= histogram.max <= edges[-1], (run, tag)
                assert len(edges) == len(counts) and all(abs(b - a - 0.25) < 1e-9 for a, b in zip(edges, edges[1:])), (run, tag)
            above_0 += sum(histogram.num for histogram in of)
        zeros = found["fim/zeros"][at][1]
        assert abs(above_0 / summary["params"] + zeros - 1) < 1e-6, f"{run}: step {step}: {above_0} of {summary['params']}, {zeros} zeros"
    tensors = len([line for line in lines if line["split"] == "optimizer"][-1]["tensors"])
    clip = [e for e in events.Histograms("clip/log10_rms_natural") if e.step not in stopped]
    assert [e.step for e in clip] == looked and clip[-1].histogram_value.num == tensors, run

    texts = {tag: [(e.step, e.tensor_proto.string_val[0].decode()) for e in events.Tensors(tag) if e.step not in stopped] for tag in events.Tags()["tensors"]}
    config = "".join(f"    {line}\n" for line in (run / "config.toml").read_text().splitlines())
    assert texts["config"] == [(0, config)], run
    pictures = events.Tags()["images"]
    if pictures:
        from PIL import Image

        for event in events.Images("reconstructions"):
            drawn = (run / f"reconstructions/step-{event.step:08}.png").read_bytes()
            assert event.encoded_image_string == drawn, run
            image = Image.open(io.BytesIO(drawn))
            image.load()
            assert image.size == (event.width, event.height), (run, image.size)
        assert [e.step for e in events.Images("reconstructions") if e.step not in stopped] == evaluated, run
    else:
        assert [step for step, _ in texts["sample"]] == evaluated and all(len(text) > 20 for _, text in texts["sample"]), run
    size = sum(path.stat().st_size for path in run.glob("events.out.*"))
    print(f"{run}: {len(found)} scalars, {len(fim) + 1} histograms, {len(texts)} texts, {len(pictures)} images, {size} bytes: as metrics.jsonl")


def ask(address, path, **query):
    url = f"{address}data/plugin/{path}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)


def ask_the_program(runs, *flags):
    """What a browser asks: tags of every run, and the points of one."""
    folder, names = runs[0].parent, {run.name for run in runs}
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--port", "0", *flags]
    program = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        for line in program.stderr:
            address = re.search(r"TensorBoard \S+ at (http://\S+)", line)
            if address:
                break
        else:
            raise AssertionError("tensorboard ended without an address")
        address = address[1] if address[1].endswith("/") else address[1] + "/"
        until = time.monotonic() + 60
        while not names <= set(ask(address, "scalars/tags")):
            assert time.monotonic() < until, f"{names} are not among {ask(address, 'scalars/tags').keys()}"
            time.sleep(0.5)
        for run in runs:
            lines, stopped = lines_of(run), stops(run)
            losses = [(line["step"], f32(line["loss"])) for line in lines if line["split"] == "train"]
            shown = ask(address, "scalars/scalars", run=run.name, tag="train/loss")
            assert [(step, value) for _, step, value in shown] == losses, (run, shown, losses)
            looked = [line["step"] for line in lines if line["split"] == "optimizer"]
            tags = ask(address, "histograms/tags")[run.name]
            fim = next(tag for tag in tags if tag.startswith("fim/log10_f/"))
            shown = [step for _, step, _ in ask(address, "histograms/histograms", run=run.name, tag=fim)]
            assert [step for step in shown if step not in stopped] == looked, (run, fim, shown, looked)
            config = ask(address, "text/text", run=run.name, tag="config")
            assert "algorithm = " in config[0]["text"], config
            for tag in ask(address, "images/tags").get(run.name, {}):
                evaluated = [line["step"] for line in lines if line["split"] == "eval"]
                pictures = ask(address, "images/images", run=run.name, tag=tag, sample=0)
                shown = [picture["step"] for picture in pictures if picture["step"] not in stopped]
                assert shown == evaluated[-len(shown) :] and len(shown) >= min(9, len(evaluated)), (run, tag, shown)  # it shows ten
        version = [line for line in subprocess.check_output([sys.executable, "-m", "pip", "list"], text=True).splitlines() if "tensorboard " in line]
        print(f"the real program shows them ({' '.join(version[0].split())}{''.join(' ' + flag for flag in flags)})")
    finally:
        program.terminate()
        program.wait()


def main(arguments):
    match arguments:
        case ["--golden", file]:
            pathlib.Path(file).write_bytes(golden())
        case ["--golden-is", file]:
            assert pathlib.Path(file).read_bytes() == golden(), f"{file} is not what TensorBoard's library writes"
            print(f"{file}: as TensorBoard's library writes it")
        case [_, *_]:
            runs = [pathlib.Path(run) for run in arguments]
            for run in runs:
                check(run)
            ask_the_program(runs)  # its reader in Rust
            ask_the_program(runs, "--load_fast=false")  # and the older one in Python
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
