from typing import Any

from typing_extensions import Buffer

def loads(data: Buffer, allow_pickle: bool = True) -> Any: ...
