"""Generation turns a cell into images: schedulers, prompts, pipelines, sampling."""
