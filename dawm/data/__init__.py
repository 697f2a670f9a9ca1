"""The transitions table, sealed folders, windows, normalizers and the sources that data comes from."""
