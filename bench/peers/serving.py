"""How the peers in Python are served: by uvicorn, on the fastest loop and parser, without a log."""

import argparse
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI


def serve(create_app: Callable[[str], FastAPI]) -> None:
    """Serve on the port and the database that the command line names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--database", required=True)
    options = parser.parse_args()
    uvicorn.run(
        create_app(options.database),
        port=options.port,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )
