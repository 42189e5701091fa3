"""How a study is run: searches, trials, processes. The only room that knows Optuna; it knows no stage by name."""
