"""How long single steps take, each of them: the median tells nothing of the slowest."""
