"""What a process started by multiprocessing's spawn method runs. It is all that such a process has to import."""


def worker(connection):
    """Says that it runs, and waits for a message, or for the end of the parent."""
    connection.send_bytes(b"x")
    try:
        connection.recv_bytes()
    except EOFError:
        pass
