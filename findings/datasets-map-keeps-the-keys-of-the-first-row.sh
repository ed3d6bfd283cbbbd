#!/usr/bin/env bash
# datasets 5.2.0: `Dataset.map` with a function that returns a dict for each row, as for calls of a model.
#
# A good guess: the new columns are all the keys that the function returned, null where a row has none; a string in
# a column of integers stays a string or raises.
# What it does: the keys of the first row are the columns, and what other rows return beside them is dropped without
# a word: `{"answer": ...}` for the first row and `{"answer": None, "error": ...}` for a later one lose every error.
# Strings that look like a number become one if the first row's value is a number: an answer "007" is 7.
#
# Seen: "{'id': 1, 'answer': 7}" of {'answer': '007', 'error': 'cut'}; `from_list` drops the same way.
set -euo pipefail
home=$(mktemp -d); trap 'rm -rf "$home"' EXIT
python3 -m venv "$home/venv"; "$home/venv/bin/pip" install -q datasets==5.2.0
cd "$home"
export HF_HOME=$home/cache HF_HUB_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1
venv/bin/python - <<'END'
from datasets import Dataset

def answer(row):
    return {"answer": 12} if row["id"] == 0 else {"answer": "007", "error": "cut"}

rows = Dataset.from_list([{"id": 0}, {"id": 1}]).map(answer).to_list()
print(rows[1], "of", answer({"id": 1}))
assert rows == [{"id": 0, "answer": 12}, {"id": 1, "answer": 7}]
assert Dataset.from_list([{"id": 0}, {"id": 1, "error": "cut"}]).column_names == ["id"]
END
