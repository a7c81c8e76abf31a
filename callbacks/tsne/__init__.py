"""t-SNE of what a network makes of its images, computed in a process beside the training.

``layout`` and ``drawing`` know nothing of torch; ``worker`` is the script that the process runs, ``client``
the training's end of it, ``projector`` writes TensorBoard's files, ``logger`` holds the callback.
"""
