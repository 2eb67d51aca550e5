"""One micro-batch from decoded events to outputs: state, model, rules. Pure: no Kafka, no clock, no threads.

`processor` is what any stateful operator must offer, `shop_processor` the product's own. May import `decoding`,
`state`, `contract`, `kernels`, and the model through `model.serving.api`. Must not know Faust, aiokafka or asyncio.
"""
