"""The settings of a sweep beside each other, for who has to choose one."""
