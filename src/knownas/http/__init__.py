"""The HTTP side: with the console the only part that knows of Starlette and uvicorn."""
