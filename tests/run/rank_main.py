"""One of several ranks, up to the encoded sides: -m tests.run.rank_main FOLDER MODEL CASES (name to overrides)."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from src.errors import UserError
from src.files import write_json_atomic
from src.models.load import load_model
from src.run import training
from src.run.build_sides import encode_sides
from src.training.accelerator import Agreement, make_accelerator
from tests.run.test_cache_keys import configuration


def main() -> None:
    """Goes through the cases and writes what this rank saw as rank<n>.json."""
    folder, model, cases = Path(sys.argv[1]), load_model(sys.argv[2]), json.loads(sys.argv[3])
    accelerator = make_accelerator(device="cpu")
    agreement, is_main = Agreement(accelerator), accelerator.is_main_process
    prepare, times = training.prepare_data, list[float]()

    def timed(*args: Any, **kwargs: Any) -> Any:
        times.append(time.monotonic())
        data = prepare(*args, **kwargs)
        times.append(time.monotonic())
        return data

    training.prepare_data = timed
    seen = {}
    for name, overrides in cases.items():
        times.clear()
        found: dict[str, Any] = {}
        try:
            config = configuration(folder, *overrides)
            data = training._prepare_main_first(config, size=(32, 32), is_main=is_main, agreement=agreement)
            sides = encode_sides(config, data, model=model, accelerator=accelerator, agreement=agreement)
            agreement.wait()
            found["keeps_text"] = sides.train.reader.text_cache is not None
            sizes, num_texts = sides.train.num_missing()
            found["num_missing"] = sizes.total() + num_texts
        except UserError as error:
            found["error"] = str(error)
        seen[name] = {**found, "prepared": list(times)}
    write_json_atomic(folder / f"rank{accelerator.process_index}.json", seen)


if __name__ == "__main__":
    main()
