"""People compare two models' answers without knowing which is whose."""
