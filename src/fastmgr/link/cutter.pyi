from enum import IntEnum

class Op(IntEnum):
    OP_CALL = 1
    OP_CREATE = 2
    OP_CONTROL = 3
    OP_INCREF = 4
    OP_RELEASE = 5
    OP_GOODBYE = 6
    OP_LOCATE = 7
    OP_ATTACH = 8
    OP_RETURN = 16
    OP_ERROR = 17
    OP_TRACEBACK = 18
    OP_PROXY = 19
    OP_UNSERIALIZABLE = 20
    OP_FAILED = 21

KINDS: dict[int, str]
OPS: dict[str, int]

class Cutter: ...
