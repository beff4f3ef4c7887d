from typing import final

@final
class Load: ...
