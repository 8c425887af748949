"""Folders of classes packed as others pack them: tar shards, Parquet, a saved dataset."""

import io
import json
import random
import tarfile


def rows_of(folder):
    """(name, bytes, class) of each picture of a split's folder, in an order of no meaning."""
    paths = sorted(folder.rglob("*.png"))
    random.Random(0).shuffle(paths)
    return [(path.name, path.read_bytes(), path.parent.name) for path in paths]


def add(shard, name, data, **facts):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in facts.items():
        setattr(info, key, value)
    shard.addfile(info, io.BytesIO(data))


def write_shards(path, rows, each=7, label="cls"):
    """path: such as shards/train; its shards are shards/train-000.tar and so on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(rows), each):
        with tarfile.open(f"{path}-{start // each:03d}.tar", "w") as shard:
            for name, data, kind in rows[start : start + each]:
                # Names are unique in a class, keys in a shard.
                stem = f"{kind}/{name.rpartition('.')[0]}"
                add(shard, f"{kind}/{name}", data)
                text = kind if label == "cls" else json.dumps({"id": 7, "label": kind})
                add(shard, f"{stem}.{label}", text.encode())


def table_of(rows, classes):
    """The Arrow table that Hugging Face's library makes of pictures and their classes."""
    import pyarrow as pa

    features = {
        "image": {"_type": "Image"},
        "label": {"names": list(classes), "_type": "ClassLabel"},
    }
    about = json.dumps({"info": {"features": features}}).encode()
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", image), ("label", pa.int64())], {b"huggingface": about})
    pictures = [{"bytes": data, "path": name} for name, data, _ in rows]
    labels = [classes.index(kind) for _, _, kind in rows]
    return pa.table([pa.array(pictures, image), pa.array(labels, pa.int64())], schema)


def write_parquet(path, rows, classes, group=5):
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table_of(rows, classes), path, row_group_size=group)


def write_saved(folder, splits, classes, batch=5):
    """As `DatasetDict.save_to_disk` lays it out."""
    import pyarrow as pa

    for split, rows in splits.items():
        (folder / split).mkdir(parents=True)
        table = table_of(rows, classes)
        path = folder / split / "data-00000-of-00001.arrow"
        with path.open("wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table, max_chunksize=batch)
        state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}
        (folder / split / "state.json").write_text(json.dumps(state))
        (folder / split / "dataset_info.json").write_text("{}")
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
