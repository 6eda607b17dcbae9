"""The pipeline that writes a dataset: units of work, processes, shards, journal and manifest."""
