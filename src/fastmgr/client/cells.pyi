from fastmgr.client.proxy import ProxyCore

class CellCore(ProxyCore):
    _has_cell: bool
    def _seen(self) -> str | None: ...
