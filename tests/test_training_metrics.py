import json

from k3m_jax.training.progress import METRICS, TIMING, MetricWriter, read_metrics


def write(folder, start, steps):
    writer = MetricWriter(folder, start)
    for step in steps:
        writer.write(step, "train", {"loss": 1 / step})
        writer.write(step, "timing", {"mfu": None})
    writer.close()


def test_lines_are_json_even_where_a_number_is_not(tmp_path):
    writer = MetricWriter(tmp_path, 0)
    writer.write(1, "train", {"loss": float("nan"), "gradient_norm": float("inf"), "skipped": 1})
    writer.close()
    line = json.loads((tmp_path / METRICS).read_text(), parse_constant=lambda x: 1 / 0)
    assert line == {
        "step": 1, "train/loss": None, "train/gradient_norm": None, "train/skipped": 1,
    }  # fmt: skip


def test_a_resumed_run_reads_as_if_it_never_stopped(tmp_path):
    write(tmp_path / "whole", 0, range(1, 6))
    write(tmp_path / "parts", 0, range(1, 5))  # was killed after step 4 …
    with (tmp_path / "parts" / METRICS).open("a") as file:
        file.write('{"step": 5, "train/lo')  # … while it wrote a line …
    write(tmp_path / "parts", 2, range(3, 6))  # … and goes on from step 2
    for name in (METRICS, TIMING):
        whole, parts = ((tmp_path / run / name).read_bytes() for run in ("whole", "parts"))
        assert parts == whole


def test_a_fresh_run_starts_fresh_files(tmp_path):
    write(tmp_path, 0, [1, 2])
    write(tmp_path, 0, [1])
    assert [line["step"] for line in read_metrics(tmp_path / METRICS)] == [1]
    assert b"train/loss" in next((tmp_path / "tensorboard").iterdir()).read_bytes()
