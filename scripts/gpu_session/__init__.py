"""The steps of scripts/gpu-session and what runs them."""
