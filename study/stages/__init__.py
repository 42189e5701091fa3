"""One file a stage, each with `run(context) -> Outcome`; the registry is the hand-off between them."""
