from typing import Any, final

from typing_extensions import Buffer

@final
class Reader: ...

def loads(data: Buffer, allow_pickle: bool = True) -> Any: ...
