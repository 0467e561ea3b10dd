"""Stop a preparation at its marks, the files that say how far it is."""

import pkgutil


def stop_at_second_mark(patch, writers, moment, error):
    """Let one mark be written and then raise `error`: "after a mark" or "before the next".

    patch: a monkeypatch context. writers: dotted names under which functions that write marks are
    called.
    """
    written = []

    def once(write):
        def write_once(path, value):
            if written:
                raise error
            written.append(path)
            write(path, value)
            if moment == "after a mark":
                raise error

        return write_once

    for name in writers:
        patch.setattr(name, once(pkgutil.resolve_name(name)))
