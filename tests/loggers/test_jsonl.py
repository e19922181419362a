import json
from pathlib import Path

from src.loggers.events import read_events
from src.loggers.jsonl import JsonlLogger


def test_each_line_says_what_and_when(run_dir: Path) -> None:
    logger = JsonlLogger(run_dir=run_dir)
    logger.start()
    logger.log_scalars({"loss/train": float("inf"), "lr/unet": 0.1}, step=3)
    logger.log_image("samples", "a toy", run_dir / "images" / "toy.png", 3)
    # Readable while the run goes on, and by any JSON reader.
    first, second = (json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines())
    assert first.pop("time") > 1e9
    assert first == {"kind": "scalars", "scalars": {"loss/train": "inf", "lr/unet": 0.1}, "step": 3}
    assert second["path"] == "images/toy.png"
    scalars, image = read_events(run_dir)
    assert scalars.arguments["scalars"]["loss/train"] == float("inf")
    assert image.arguments["path"] == run_dir / "images" / "toy.png"


def test_resuming_appends_and_drops_a_line_cut_short(run_dir: Path) -> None:
    run_dir.mkdir(parents=True)
    whole = '{"kind": "text", "time": 1.0, "text": "' + "x" * 9000 + '"}\n'
    (run_dir / "metrics.jsonl").write_text(whole + '{"kind": "text", "ti')
    logger = JsonlLogger(run_dir=run_dir)
    logger.start()
    logger.log_text("again")
    logger.close("completed")
    assert [len(event.arguments["text"]) for event in read_events(run_dir)] == [9000, 5]
