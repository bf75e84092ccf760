"""Every table and picture of the documents, from the records in bench/results: python -m bench.redraw

A record that is not there leaves its table and picture as they are. `--results` is where records are read and pictures
written, `--root` the folder of README.md and bench/README.md.
"""

import argparse
import json
from functools import partial
from pathlib import Path

from bench import (
    accuracy_report,
    boosters_report,
    cluster_report,
    features_report,
    headline,
    in_torch_report,
    instructions,
    layouts_report,
    limits,
    record_picture,
    report,
    scaling,
    small_calls,
    streaming_report,
)
from bench.cuda import report as cuda_report
from bench.report import write_between_markers
from fastce.profile.features import FeaturesReport, FeaturesRow
from fastce.profile.features_report import save_figure

ROOT = Path(__file__).resolve().parent.parent


def record(path, readme, measured):
    machine_info, cases = report.read_cases(path)
    record_picture.draw(report.table_of(cases), report.engines_of(cases), path.with_suffix(".png"))
    text = f"{report.markdown(cases)}\n\n{report.footnote(machine_info, cases)}"
    write_between_markers(measured, text)
    headline.write(machine_info, cases, readme, path.with_name("headline.png"), path.with_name("headline.txt"))


def from_features(path, readme, measured):
    machine_info, cases = report.read_cases(path)
    text = f"{features_report.markdown(cases)}\n\n{features_report.footnote(machine_info)}"
    write_between_markers(measured, text, features_report.MARKERS)


def batches(path, readme, measured):
    content = json.loads(path.read_text())
    rows = [FeaturesRow(**row) for row in content.pop("rows")]
    save_figure(FeaturesReport(**content, rows=rows), path.with_suffix(".png"))


def growth(path, readme, measured):
    scaling.draw(json.loads(path.read_text()), path.with_suffix(".png"))


def errors(path, readme, measured):
    write_between_markers(readme, accuracy_report.sentence(json.loads(path.read_text())), accuracy_report.MARKERS)


def cluster(path, readme, measured):
    known = json.loads(path.read_text())
    write_between_markers(measured, cluster_report.text(known), cluster_report.MARKERS)
    cluster_report.draw(known, path.with_suffix(".png"))


def table(of, path, readme, measured):
    write_between_markers(measured, of.text(json.loads(path.read_text())), of.MARKERS)


def cuda(path, readme, measured):
    cuda_report.main([str(path), "--readme", str(measured)])


RECORDS = {
    "record.json": record,
    "from_features.json": from_features,
    "batches.json": batches,
    "scaling.json": growth,
    "accuracy.json": errors,
    "layouts.json": partial(table, layouts_report),
    "streaming.json": partial(table, streaming_report),
    "boosters.json": partial(table, boosters_report),
    "cluster.json": cluster,
    "in_torch.json": partial(table, in_torch_report),
    "small_calls.json": partial(table, small_calls),
    "instructions.json": partial(table, instructions),
    "limits.json": partial(table, limits),
    "cuda.json": cuda,
}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--root", type=Path, default=ROOT)
    options = parser.parse_args(argv)
    for name, redraw in RECORDS.items():
        path = options.results / name
        print(f"{name}: {'redrawn' if path.exists() else 'not there'}")
        if path.exists():
            redraw(path, options.root / "README.md", options.root / "bench" / "README.md")


if __name__ == "__main__":
    main()
