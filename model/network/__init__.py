"""The neural network itself, for training (`network`) and as the TorchScript step that is exported (`step`)."""
