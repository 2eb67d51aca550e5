"""How good a model is: metrics, baselines, and the playback of later events through the serving code."""
