CREATE TABLE IF NOT EXISTS clicks
(
    click_id String,
    user_id UInt64,
    page LowCardinality(String),
    at DateTime64(3)
)
ENGINE = MergeTree
ORDER BY (at, click_id)
SETTINGS non_replicated_deduplication_window = 10000
