"""The words of the AsyncAPI document; what they describe is taken from the types by `asyncapi`."""

CONTRACT = """\
Events of a shop in, predictions and flags out.

- The three input topics have the same number of partitions, and so have the outputs and the changelog.
- The key of a record is its `user_id` in UTF-8. All events of a user must be in the same partition number of the \
three topics: let every producer use the same partitioner.
- A value is a JSON object or a msgpack map, told apart by the first byte; one topic may hold both. Outputs are \
JSON, or msgpack where the worker's `output_format` says so.
- An output has the key and the partition number of its source record. Outputs of one user come in the order in \
which that user's events were taken.
- After a crash an output may come again, with the same `id`. Drop repeats by `id`.
- An optional field that is null counts as absent. An id may be an integer, which is its decimal string; the key is \
then that string too. A number without a fraction (2.0, 1.76722566e12) may stand for an integer. Fields that the \
worker does not read (`session_id`, `order_id`, `list_id`, `query`, `position`, `currency`, `props`, and `sent_at` \
without `correct_clock`) never make a dead letter: what has another form there counts as absent.
- An output is never larger than its topic takes. A prediction then has fewer items and `truncated`; a dead letter \
has a shortened key or value, or none of the producer's headers, and headers that say so.
- `FORECLICK_TOPIC_PREFIX` stands before the name of every topic, and so before every `id`.
- Fields that are not named here are ignored in inputs and may be added to outputs."""

SERVER = "The brokers of `FORECLICK_BROKERS`."

CHANNELS = {
    "click": "What users click. An item is required.",
    "browse": "Pages, categories and items that users look at. An item is optional.",
    "purchase": "What users buy, one record for each item of an order.",
    "prediction": "One for each good event; with `emit = latest` one for a user's last event of a micro-batch.",
    "flag": "At most one for each event: what is odd about it.",
    "dead-letter": "Records that are no events, untouched as far as they fit, with headers that say why.",
}

EVENT = "One click, browse or purchase; the topic says which. A JSON object or a msgpack map with these keys."
KEY = "The user_id in UTF-8, 1 to 128 bytes."
DEAD_LETTER_KEY = (
    "The key of the bad record as it was, which may be any bytes or none; its beginning where a header "
    "`foreclick.key.length` says so."
)
DEAD_LETTER_VALUE = (
    "The value of the bad record as it was, which may be any bytes or none; its beginning where a header "
    "`foreclick.value.length` says so."
)
INPUT_HEADERS = (
    "Not read, but for `foreclick.received`: when the record was first stored, in Unix milliseconds as decimal text. "
    "Whatever passes records on attaches it. All are kept on a dead letter."
)
DEAD_LETTER_HEADERS = (
    "First those named here, once each. Behind them stand the headers of the record as they were, where there is "
    "room; names of theirs that begin with `foreclick.` or `__streams.errors.` get `source.` before them."
)

_OUTPUT = {
    "id": "`<topic>-<partition>-<offset>` of the source record, the same when the output comes again.",
    "user_id": "The user of the source event.",
    "ts": "Time of the source event, Unix milliseconds.",
    "event_id": "`event_id` of the source event, null where it had none.",
    "model": '`name@version` of the model, "none" for a worker without one.',
}

FIELDS = {
    "Event": {
        "user_id": "Who did it: 1 to 128 bytes of UTF-8, equal to the record's key.",
        "ts": "The event's own time, Unix milliseconds, from March 1973 on, so that seconds are told apart. At most "
        "`max_future_ms` ahead of the record's time (where it is ahead, the event counts at the record's), and "
        "`max_past_ms` before it where that is set.",
        "event_id": "Key for dropping duplicates, at most 128 bytes. An event of the same id, type and item as one "
        "of the user's last 20 is one.",
        "item_id": "The item, 1 to 256 bytes of UTF-8. Required for clicks and purchases.",
        "category_id": "Category of the item or page, at most 256 bytes of UTF-8.",
        "session_id": "The shop's own session, not used for the windows.",
        "order_id": "Ties the purchases of one order together.",
        "list_id": "Where the item was shown.",
        "query": "What the user searched for.",
        "position": "Place in the list, from 0.",
        "sent_at": "The sender's clock when it sent, Unix milliseconds. Read only with `correct_clock`: an event "
        "whose `sent_at` has another form is then a dead letter.",
        "price": "Price of one piece.",
        "currency": "ISO 4217 code. Prices are not converted.",
        "quantity": "Pieces bought.",
        "props": "Anything else: device, ip, country, referrer.",
    },
    "Prediction": {
        **_OUTPUT,
        "next_event": "Probabilities of the type of the user's next event, null without a model.",
        "purchase_probability": "Chance of a purchase within `horizon_ms` from the event on, null without a model.",
        "horizon_ms": "The horizon of `purchase_probability` that the model was trained for, in milliseconds "
        "(1,800,000 by default: half an hour); left out without a model.",
        "items": "Items the user may turn to next, best first, at most `k` (10 by default); empty without a model.",
        "truncated": "True where the last of the items were left out, since the topic takes no larger record; left "
        "out where it is false.",
        "degraded": "True where the model was in trouble and gave no answer; left out where it is false. A repeat "
        "after a crash may hold the answer.",
    },
    "NextEvent": {
        "click": "Probability that it is a click.",
        "browse": "Probability that it is a browse.",
        "purchase": "Probability that it is a purchase.",
    },
    "ItemScore": {
        "item_id": "The item.",
        "score": "Its share among the candidates that were ranked, 0 to 1. Compare within one prediction only.",
    },
    "Flag": {
        **_OUTPUT,
        "kind": "`fraud` where a reason is about purchases or money, else `anomaly`.",
        "score": "0 to 1: one minus the share of ordinary events that look at least as odd. Where the model has no "
        "calibrated table for a rule: one half at the limit, rising towards one.",
        "reasons": "Every limit that the event broke, at least one.",
        "degraded": "True where the model was in trouble and only rules were asked; left out where it is false.",
    },
    "Reason": {
        "code": "A stable code:",
        "value": "What was seen.",
        "expected": "The usual value where the rule knows one (`amount_jump`), else the limit.",
        "limit": "The limit that `value` broke. Left out in flags of older versions.",
    },
}

FLAG_REASONS = {
    "unlikely_event": "the model gave the event a p-value of at most `rules.surprise_p`; value: the probability it "
    "gave to the event's type",
    "click_rate": "more clicks within a minute than `rules.clicks_1m`",
    "many_items": "more distinct items among the last 20 events than `rules.distinct_items`",
    "purchase_rate": "more purchases within an hour than `rules.purchases_1h`",
    "amount_jump": "an amount above `rules.amount_jump` times what the user usually spends; value: the amount, "
    "expected: the median of their last 8 amounts, limit: `rules.amount_jump` times that",
}

HEADERS = {
    "__streams.errors.topic": "Topic of the source record.",
    "__streams.errors.partition": "Partition of the source record.",
    "__streams.errors.offset": "Offset of the source record.",
    "__streams.errors.exception": "`foreclick.` and the reason code.",
    "__streams.errors.message": "What is wrong and what was expected, for people; nothing out of the value.",
    "foreclick.reason": "A stable code:",
}

#: Headers that stand only where something was cut, or where the letter is a piece of a batch.
MORE_HEADERS = {
    "foreclick.offsets": "Only with `unreadable`: first and last offset of the batch, as `17-23`.",
    "foreclick.part": "Only with `unreadable`: which piece this is of how many, as `1/3`.",
    "foreclick.value.length": "The value was longer than fits: its full length in bytes.",
    "foreclick.value.sha256": "SHA-256 of the full value, in hexadecimal digits.",
    "foreclick.key.length": "The key was longer than fits: its full length in bytes.",
    "foreclick.key.sha256": "SHA-256 of the full key.",
    "foreclick.headers.dropped": "How many headers the record had that were left out, all of them but "
    "`foreclick.received`, since they did not fit or were more than 100.",
    "foreclick.headers.length": "Their length in bytes, as message format v2 holds them, count included.",
    "foreclick.headers.sha256": "SHA-256 of these bytes.",
}

DEAD_LETTER_REASONS = {
    "empty": "the record has no value",
    "too_large": "the value has more than 65,536 bytes",
    "malformed": "the value is neither a JSON object nor a msgpack map",
    "missing_field": "a required field is absent or null",
    "invalid_field": "a field has the wrong type or lies outside its range",
    "future": "`ts` is more than `max_future_ms` ahead of the record's time",
    "past": "`ts` lies before March 1973, as seconds do, or more than `max_past_ms` before the record's time",
    "key_mismatch": "the record's key is not `user_id` in UTF-8",
    "unreadable": "a stored batch, or the rest of one, that Kafka's own consumer does not read either; the letter, "
    "or several in their order, hold its bytes as they are stored",
}
