"""One micro-batch from decoded events to outputs: state, model, rules. Pure: no Kafka, and the time is an argument.

`processor` is what any stateful operator must offer, `shop_processor` the product's own. It starts no
threads, but says which thread may call what. May import the rooms below it and the model through `model.serving.api`.
Must not know Faust, aiokafka or asyncio.
"""
