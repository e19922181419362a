"""From the configuration to a source, and from a source to what an adapter says of its data."""

import json

import pytest
from hydra import compose, initialize_config_dir

from src.config.build import PROJECT_ROOT, check_config, register
from src.errors import UserError
from src.run.build_data import data_manager, read_dataset
from tests.data.fetch_server import serving
from tests.data.test_source_arasaac import item, serve


def composed(*overrides):
    register()
    with initialize_config_dir(str(PROJECT_ROOT / "conf"), version_base="1.3"):
        return check_config(compose("train", overrides=list(overrides)))


def source_of(config):
    return data_manager(config.dataset, root=PROJECT_ROOT)._source


def test_pictograms_by_configuration(tmp_path):
    with serving() as server:
        serve(server, [item(id, f"word {id}") for id in range(2, 8)])
        config = composed(
            "dataset=arasaac",
            f"dataset.path={tmp_path / 'set'}",
            f"dataset.source.api={server.url}/v1",
            f"dataset.source.static={server.url}/pictograms",
            "dataset.source.requests_per_second=1000",
            "dataset.source.max_samples=4",
            "dataset.source.categories=[animal,food]",
            "dataset.reader.max_samples=3",
        )
        assert data_manager(config.dataset, root=tmp_path).ensure() == "downloaded and verified"
    result = read_dataset(config)
    assert len(result.records) == 3
    assert result.problems == []
    assert "Sergio Palao" in result.attribution
    assert len(json.loads((tmp_path / "set/pictograms.json").read_text())) == 4
    # A file of the user's counts before what the reader knows.
    (tmp_path / "set/ATTRIBUTION.txt").write_text("Mine\n")
    assert read_dataset(config).attribution == "Mine"


def test_the_source_brings_the_split_that_is_read(tmp_path):
    fixed = ("dataset=coco", f"dataset.path={tmp_path / 'coco'}")
    for split in ("val2017", "train2017"):
        source = source_of(composed(*fixed, f"dataset.reader.split={split}"))
        assert source.missing(tmp_path / "coco") == [f"annotations/captions_{split}.json", split]
    with pytest.raises(UserError, match=r"dataset\.source\.splits=val2014 is not one of"):
        source_of(composed(*fixed, "dataset.reader.split=val2014"))


def test_no_source(tmp_path):
    assert source_of(composed()) is None
    config = composed("dataset=arasaac", "dataset.source=null", f"dataset.path={tmp_path / 'no'}")
    with pytest.raises(UserError, match=r"neither DVC, dataset\.url nor dataset\.source"):
        data_manager(config.dataset, root=tmp_path).ensure()
