"""One model trained by several processes, whole in each or in parts."""
