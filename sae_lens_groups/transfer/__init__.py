"""Starting SAEs from trained ones (init_from)."""
