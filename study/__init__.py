"""The study: configuration, data, training, measures, search, and the stages that use them."""
