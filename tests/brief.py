"""Words that keep a command short: what takes longest to score is left out, and no worker is started."""

SLOW = ("motion_fidelity_legacy", "warp_consistency", "ftd", "leak")
WITHOUT_SLOW = tuple(f"~metrics.metrics.{name}" for name in SLOW)
BRIEF = (*WITHOUT_SLOW, "wandb=disabled", "execute=here")
