"""Workers share a store through leases. Nothing here knows about diffusion."""
