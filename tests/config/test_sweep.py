from src.config.sweep import format_table


def test_the_table_shows_what_was_swept_and_failures_as_rows():
    rows = [
        (
            "0",
            {"overrides": ["a=1", "b=2"], "status": "completed", "results": {"validation_loss": 0.123456789}},
        ),
        ("1", {"overrides": ["a=3", "b=2"], "status": "failed", "results": {}, "error": "no rank"}),
    ]
    table = format_table(rows)
    lines = table.splitlines()
    assert lines[0].split() == ["|", "job", "|", "a", "|", "status", "|", "validation_loss", "|"]
    assert "0.12346" in lines[2]
    assert "failed" in lines[3]
    assert "- job 1: no rank" in table
