"""What training opens: the format of a species data set, its reader, the order of windows, the
loader. README.md describes every file.
"""
