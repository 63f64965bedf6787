"""Public data sets as TensorFlow Datasets builders: published files → typed events, one file per data set.

The way of the data: the publisher's files (in the user's `manual_dir`, or fetched where the terms and a known checksum
allow it) → a builder → one split, `events`, in TFDS' own layout under `data_dir` → `sources.py` with `format: tfds` →
the same events, dead letters and sessions as from any log. One example is one row of the log: a click, or an item that
was only shown (`is_click` is then false). What a false positive is, is not decided here but by the run's rules.

A run names a data set like a file:

    data:
      source: {format: tfds, name: kuairand, config: pure, manual_dir: $FP_TFRS_DATA_DIR/kuairand_pure}
      columns: {user_id: user_id, timestamp: timestamp_ms, feedback: {is_click: bool, play_time_ms: int}}
      time_unit: ms

or, without a run: `tfds build fp_tfrs/datasets/kuairand.py --config pure --manual_dir …` (TFDS' command needs
`mlcroissant` beside it, which nothing here uses).

- `raw_files.py` cuts files into parts and reads them; `event_log.py` is what the builders share; `prepared.py` makes a
  data set on first use and reads it back.
- Each part becomes one record file, in order, unshuffled: sessions sort their events themselves, the rows' order says
  where a dead letter came from, and nothing has to fit in memory. Data over 1 GB are read by Beam, part by part.
- A published row that does not fit its own format stops the making with file and place; values that a run's rules
  cannot use (a read time that was not measured) become dead letters of that run.

`import fp_tfrs.datasets` imports nothing slow.
"""

SPLIT = "events"
NAMES = (
    "amazon_reviews",
    "diginetica",
    "ebnerd",
    "globo",
    "kuairand",
    "lastfm1k",
    "mind",
    "movielens_ratings",
    "movietweetings",
    "retailrocket",
    "spotify_mssd",
    "thirty_music",
    "yoochoose",
)
"""The data sets: each is a module here and a TFDS name."""
