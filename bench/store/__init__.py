"""Files of a results directory on a disk or in an object store, each with a hash, written atomically."""
