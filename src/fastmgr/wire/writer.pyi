from typing import final

ERRORS: tuple[type[Exception], ...]

@final
class Writer: ...

def dumps(value: object) -> bytes: ...
