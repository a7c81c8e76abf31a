"""The regression experiment: train every fold, setting and seed; choose honestly; draw and report."""
