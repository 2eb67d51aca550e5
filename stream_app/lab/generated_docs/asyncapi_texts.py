"""The texts of the AsyncAPI document; `asyncapi` takes everything else from the types."""

CONTRACT = """\
Events of a shop in, predictions and flags out.

- The three input topics have the same number of partitions, and so do the outputs and the changelog.
- The key of a record is its `user_id` in UTF-8. All events of a user must be in the same partition number of the \
three topics, so all producers must use the same partitioner.
- A value is a JSON object or a msgpack map. The worker recognises the format by the first byte, and one topic may \
hold both. Outputs are JSON, or msgpack with `output_format = msgpack`.
- An output has the key and the partition number of its source record. Outputs of one user are in the order \
in which the worker processed that user's events.
- After a crash, an output may be written again with the same `id`. Consumers drop repeats by `id`.
- A null in an optional field counts as absent. An id may be an integer and then means its decimal string; the key \
is then that string too. A number without a fraction (2.0, 1.76722566e12) counts as an integer. Fields that the \
worker does not read (`session_id`, `order_id`, `list_id`, `query`, `position`, `currency`, `props`, and `sent_at` \
without `correct_clock`) never cause a dead letter: a value of the wrong type there counts as absent.
- An output never exceeds the largest record that its topic accepts. If it would, a prediction has fewer items and \
`truncated`; a dead letter has a shortened key or value, or no headers of the producer, and headers that say so.
- With `FORECLICK_TOPIC_PREFIX`, the name of every topic starts with that prefix, and so does every `id`.
- Fields that are not named here are ignored in inputs and may be added to outputs."""

SERVER = "The brokers of `FORECLICK_BROKERS`."

CHANNELS = {
    "click": "What users click. An item is required.",
    "browse": "Pages, categories and items that users view. An item is optional.",
    "purchase": "What users buy, one record for each item of an order.",
    "prediction": "One per valid event; with `emit = latest`, only one for a user's last event of a micro-batch.",
    "flag": "At most one per event: what is unusual about it.",
    "dead-letter": "Invalid records, unchanged as far as they fit, with headers that say what is wrong.",
}

EVENT = "One click, browse or purchase; the topic says which. A JSON object or a msgpack map with these keys."
KEY = "The user_id in UTF-8, 1 to 128 bytes."
DEAD_LETTER_KEY = (
    "The unchanged key of the invalid record: any bytes, or none. Only its beginning if there is a header "
    "`foreclick.key.length`."
)
DEAD_LETTER_VALUE = (
    "The unchanged value of the invalid record: any bytes, or none. Only its beginning if there is a header "
    "`foreclick.value.length`."
)
INPUT_HEADERS = (
    "The worker reads only `foreclick.received`: the time at which the record was first stored, in Unix milliseconds "
    "as decimal text. Programs that forward records add it. A dead letter keeps all headers."
)
DEAD_LETTER_HEADERS = (
    "First the headers named here, once each. The unchanged headers of the record follow, if there is room; those "
    "whose names begin with `foreclick.` or `__streams.errors.` get the prefix `source.`."
)

_OUTPUT = {
    "id": "`<topic>-<partition>-<offset>` of the source record, the same if the output is written again.",
    "user_id": "The user of the source event.",
    "ts": "Time of the source event, Unix milliseconds.",
    "event_id": "`event_id` of the source event, null if it had none.",
    "model": '`name@version` of the model, "none" for a worker without one.',
}

FIELDS = {
    "Event": {
        "user_id": "Who did it: 1 to 128 bytes of UTF-8, equal to the record's key.",
        "ts": "The event's own time in Unix milliseconds, not before March 1973, so times in seconds are refused. "
        "At most `max_future_ms` ahead of the record's time (an event ahead of it counts at the record's time), "
        "and at most `max_past_ms` behind it if that is set.",
        "event_id": "Key for dropping duplicates, at most 128 bytes. An event is a duplicate if one of the user's "
        "last 20 events has the same id, type and item.",
        "item_id": "The item, 1 to 256 bytes of UTF-8. Required for clicks and purchases.",
        "category_id": "Category of the item or page, at most 256 bytes of UTF-8.",
        "session_id": "The shop's own session; windows do not use it.",
        "order_id": "The order that the purchase belongs to.",
        "list_id": "Where the item was shown.",
        "query": "The text that the user searched for.",
        "position": "Place in the list, from 0.",
        "sent_at": "The sender's clock when it sent, Unix milliseconds. Read only with `correct_clock`: an event "
        "with an invalid `sent_at` then becomes a dead letter.",
        "price": "Price per piece.",
        "currency": "ISO 4217 code. Prices are not converted.",
        "quantity": "Number of pieces.",
        "props": "Other properties: device, ip, country, referrer.",
    },
    "Prediction": {
        **_OUTPUT,
        "next_event": "Probabilities of the type of the user's next event, null without a model.",
        "purchase_probability": "Probability of a purchase within `horizon_ms` after the event, null without a "
        "model.",
        "horizon_ms": "The horizon of `purchase_probability` that the model was trained for, in milliseconds "
        "(1,800,000 by default: half an hour); absent without a model.",
        "items": "Items that the user may choose next, best first, at most `k` (10 by default); empty without "
        "a model.",
        "truncated": "True if the last items were removed because the topic accepts no larger record; absent "
        "if false.",
        "degraded": "True if the model failed and gave no answer; absent if false. If the output is written again "
        "after a crash, it may contain the answer.",
    },
    "NextEvent": {
        "click": "Probability that it is a click.",
        "browse": "Probability that it is a browse.",
        "purchase": "Probability that it is a purchase.",
    },
    "ItemScore": {
        "item_id": "The item.",
        "score": "Its share among the ranked candidates, 0 to 1. Scores are comparable within one prediction only.",
    },
    "Flag": {
        **_OUTPUT,
        "kind": "`fraud` if a reason is about purchases or money, otherwise `anomaly`.",
        "score": "0 to 1: one minus the share of ordinary events that are at least as unusual. If the model has no "
        "calibrated table for a rule: one half at the limit, rising towards one.",
        "reasons": "Every limit that the event exceeded, at least one.",
        "degraded": "True if the model failed and only the rules were applied; absent if false.",
    },
    "FlagReason": {
        "code": "A stable code:",
        "value": "The observed value.",
        "expected": "The usual value if the rule knows one (`amount_jump`), otherwise the limit.",
        "limit": "The limit that `value` exceeded. Absent in flags of older versions.",
    },
}

FLAG_REASONS = {
    "unlikely_event": "the model gave the event a p-value of at most `rules.surprise_p`; value: the p-value",
    "click_rate": "more clicks within a minute than `rules.clicks_1m`",
    "many_items": "more different items among the last 20 events than `rules.distinct_items`",
    "purchase_rate": "more purchases within an hour than `rules.purchases_1h`",
    "amount_jump": "an amount above `rules.amount_jump` times the user's usual amount; value: the amount, "
    "expected: the median of the last 8 amounts, limit: `rules.amount_jump` times that",
}

HEADERS = {
    "__streams.errors.topic": "Topic of the source record.",
    "__streams.errors.partition": "Partition of the source record.",
    "__streams.errors.offset": "Offset of the source record.",
    "__streams.errors.exception": "`foreclick.` and the reason code.",
    "__streams.errors.message": "What is wrong and what was expected, in words; it contains nothing from the value.",
    "foreclick.reason": "A stable code:",
}

#: Headers of dead letters that were shortened, or that contain a part of a batch.
MORE_HEADERS = {
    "foreclick.offsets": "Only with `unreadable`: first and last offset of the batch, as `17-23`.",
    "foreclick.part": "Only with `unreadable`: which part this is and how many there are, as `1/3`.",
    "foreclick.value.length": "The value did not fit: its full length in bytes.",
    "foreclick.value.sha256": "SHA-256 of the full value, in hexadecimal digits.",
    "foreclick.key.length": "The key did not fit: its full length in bytes.",
    "foreclick.key.sha256": "SHA-256 of the full key.",
    "foreclick.headers.dropped": "How many headers of the record were removed: all except `foreclick.received`, "
    "because they did not fit or were more than 100.",
    "foreclick.headers.length": "Their length in bytes in message format v2, including their count.",
    "foreclick.headers.sha256": "SHA-256 of these bytes.",
}

DEAD_LETTER_REASONS = {
    "empty": "the record has no value",
    "too_large": "the value has more than 65,536 bytes",
    "malformed": "the value is neither a JSON object nor a msgpack map",
    "missing_field": "a required field is absent or null",
    "invalid_field": "a field has the wrong type or is out of range",
    "future": "`ts` is more than `max_future_ms` ahead of the record's time",
    "past": "`ts` is before March 1973 (perhaps a time in seconds), or more than `max_past_ms` behind the record's "
    "time",
    "key_mismatch": "the record's key is not `user_id` in UTF-8",
    "unreadable": "a stored batch, or the rest of one, that Kafka's own consumer cannot read either; the dead "
    "letter, or several in order, contain its stored bytes",
}
