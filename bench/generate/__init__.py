"""From a cell to images: schedulers, prompts, pipelines, sampling."""
