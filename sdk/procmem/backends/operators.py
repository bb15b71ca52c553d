"""The operators of ONNX that a procmem model may use: a closed list, read by `onnx_file.py`.

What a perception needs and nothing else: arithmetic on tensors whose cost the graph itself shows.
Not on it, and so refused: control flow (`If`, `Loop`, `Scan`), whose inner graphs run as often as
the data say; random numbers, which would break law 4; strings, sequences, optionals, decoders of
images, and everything that no export of ours makes.
"""

from __future__ import annotations

_ARITHMETIC = """
    Abs Add Ceil Clip Cos Div Erf Exp Floor Log Max Mean Min Mod Mul Neg Pow Reciprocal Round Sign
    Sin Sqrt Sub Sum Tan Trunc
"""
_COMPARISON = """
    And Equal Greater GreaterOrEqual IsInf IsNaN Less LessOrEqual Not Or Where Xor
"""
_ACTIVATION = """
    Elu Gelu HardSigmoid HardSwish LeakyRelu LogSoftmax Mish PRelu Relu Selu Sigmoid Softmax
    Softplus Softsign Swish Tanh
"""
_NORMALIZATION = """
    BatchNormalization GroupNormalization InstanceNormalization LayerNormalization LpNormalization
    RMSNormalization
"""
_PRODUCT = """
    Attention Conv ConvInteger Einsum Gemm MatMul MatMulInteger QLinearConv QLinearMatMul
    RotaryEmbedding
"""
_REDUCTION = """
    ArgMax ArgMin AveragePool CumSum GlobalAveragePool GlobalMaxPool MaxPool ReduceL1 ReduceL2
    ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare TopK
"""
_SHAPE = """
    Cast CastLike CenterCropPad Concat Constant ConstantOfShape DepthToSpace Expand Flatten Gather
    GatherElements GatherND Identity Pad Range Reshape Resize ScatterElements ScatterND Shape Size
    Slice SpaceToDepth Split Squeeze Tile Transpose Trilu Unsqueeze
"""
_QUANTIZATION = """
    DequantizeLinear DynamicQuantizeLinear QuantizeLinear
"""

ALLOWED_OPERATORS = frozenset(
    " ".join(
        (
            _ARITHMETIC,
            _COMPARISON,
            _ACTIVATION,
            _NORMALIZATION,
            _PRODUCT,
            _REDUCTION,
            _SHAPE,
            _QUANTIZATION,
        )
    ).split()
)
"""Names of ONNX's own domain; an operator of the same name in another domain is refused."""
