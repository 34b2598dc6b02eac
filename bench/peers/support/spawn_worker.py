"""What the processes of multiprocessing's spawn method run. They need not import anything else."""


def worker(connection):
    """Reports that it runs, then waits for a message or for the death of the parent."""
    connection.send_bytes(b"x")
    try:
        connection.recv_bytes()
    except EOFError:
        pass
