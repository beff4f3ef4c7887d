from typing import final

@final
class Timers: ...
