"""The judges: classifiers of real images, by which generated ones are measured."""
