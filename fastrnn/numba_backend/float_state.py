"""The floating-point state of a thread while it computes; what C does in kernels.h."""

from __future__ import annotations

from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .vectors import I32, I64, POINTER, integer

MACHINE = binding.get_process_triple().partition("-")[0]


def _mxcsr(builder: Any, name: str, slot: Any) -> None:
    signature = ir.FunctionType(ir.VoidType(), [POINTER])
    function = cgutils.get_or_insert_function(builder.module, signature, f"llvm.x86.sse.{name}")
    builder.call(function, [builder.bitcast(slot, POINTER)])


def _fpcr(builder: Any, name: str, returns: Any, arguments: list[Any]) -> Any:
    signature = ir.FunctionType(returns, [argument.type for argument in arguments])
    full = f"llvm.aarch64.{name}.fpcr"
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, full), arguments)


def _set_float_state(typing_context: Any) -> Any:
    """Round to nearest, trap nothing, take denormals for zeros; return the state before.

    With denormals some processors are 20 times slower.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if MACHINE == "x86_64":
            slot = cgutils.alloca_once(builder, I32)
            _mxcsr(builder, "stmxcsr", slot)
            before = builder.zext(builder.load(slot), I64)
            builder.store(ir.Constant(I32, 0x1F80 | 0x8040), slot)
            _mxcsr(builder, "ldmxcsr", slot)
            return before
        if MACHINE == "aarch64":
            before = _fpcr(builder, "get", I64, [])
            _fpcr(builder, "set", ir.VoidType(), [integer(1 << 24)])
            return before
        return integer(0)

    return types.int64(), generate


def _restore_float_state(typing_context: Any, before: Any) -> Any:
    """Put the state back."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if MACHINE == "x86_64":
            slot = cgutils.alloca_once(builder, I32)
            builder.store(builder.trunc(arguments[0], I32), slot)
            _mxcsr(builder, "ldmxcsr", slot)
        elif MACHINE == "aarch64":
            _fpcr(builder, "set", ir.VoidType(), [arguments[0]])
        return context.get_dummy_value()

    return types.void(types.int64), generate


set_float_state: Any = intrinsic(_set_float_state)
restore_float_state: Any = intrinsic(_restore_float_state)
