"""Files and folders that people keep on a node: blocks on disk, and an index of what is kept, why and how long."""
