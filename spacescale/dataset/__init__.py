"""Species datasets on disk: format, writer, reader. README.md describes every file."""
