import json
import warnings
from unittest.mock import Mock

import pandas as pd
from mlflow.data.pandas_dataset import from_pandas

from diffaug.files import storage
from diffaug.integrations.mlflow_events import EventLogger
from diffaug.tracking.events import Event


def test_a_data_set_is_described_as_mlflow_would_and_nothing_is_warned_of(tmp_path, monkeypatch, recwarn):
    table = tmp_path / "the pool.parquet"
    columns = {"file": ["0.png", "1.png"], "seed": [1, 2], "size": pd.array([1, None], "Int64"), "score": [0.5, None]}
    frame = pd.DataFrame({**columns, "kept": [True, False], "nothing": [None, None]})
    storage.write_parquet(table, frame)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = from_pandas(pd.read_parquet(table), source=table.as_uri(), name="pool", digest="d" * 36).to_dict()
    recwarn.clear()
    monkeypatch.setattr(warnings, "simplefilter", lambda *arguments, **options: None)  # undone by another thread
    client = Mock()
    event = {"file": table.name, "name": "pool", "context": "synthetic", "digest": "d" * 64, "rows": None}
    EventLogger(client, tmp_path, []).log("run", [Event(1, 1, "dataset", "study", event)])
    assert [str(warning.message) for warning in recwarn] == []
    ((_, (used,)),) = [call.args for call in client.log_inputs.call_args_list]
    described = used.dataset
    for name in ("name", "digest", "source_type", "source", "profile"):
        assert getattr(described, name) == expected[name]
    schema, wanted = (json.loads(text)["mlflow_colspec"] for text in (described.schema, expected["schema"]))
    assert schema == wanted
