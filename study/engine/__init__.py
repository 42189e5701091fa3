"""How a study is run: searches, trials, processes. The only package that imports Optuna; it knows no stage by name."""
