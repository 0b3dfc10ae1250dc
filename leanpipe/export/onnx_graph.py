"""The computation of a Llama-like decoder with its key-value cache, as an ONNX graph of onnxruntime's fused operators.

Its inputs and outputs are named as onnxruntime-genai and Optimum name them: `input_ids`, `attention_mask`,
`past_key_values.N.key` go in, `logits` and `present.N.key` come out. Families that differ from it in anything, such as
Gemma's norms, are refused by name: the graph would answer wrongly without a word.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from leanpipe.core.errors import UserError
from leanpipe.models.count import longest_text, unless_multiplied_out

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, ValueInfoProto
    from transformers import PretrainedConfig

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
_MICROSOFT = "com.microsoft"
OPSET, IR_VERSION = 21, 10
MOST_POSITIONS = 8_192
"""Positions of which the file holds the rotations, where the model can read more."""
ACCURACY_LEVEL = 1
"""How MatMulNBits multiplies: 1 leaves activations in float32. 4 would round them to 8 bits in blocks of 32, and flips
greedy tokens."""
EMBEDDING, HEAD, NORM = "model.embed_tokens", "lm_head", "model.norm"


class Weight(NamedTuple):
    """How a matrix is stored: in blocks of so many bits, or in float32 if 0."""

    bits: int
    rows: int
    columns: int


def check_onnx_architecture(config: "PretrainedConfig") -> None:
    """Raise UserError, in one sentence, for a model that the graph would not compute as it was trained."""
    if config.model_type not in FAMILIES:
        raise UserError(
            f"a model of type {config.model_type} cannot be written as ONNX here, only {', '.join(FAMILIES)} can: take the "
            f"onnx formats out of quantize.formats{unless_multiplied_out(config)}"
        )
    if reason := _difference(config):
        raise UserError(
            f"this {config.model_type} model cannot be written as ONNX: {reason}, which the graph does not compute; take the "
            "onnx formats out of quantize.formats"
        )


def _difference(config: "PretrainedConfig") -> str:
    rope = getattr(config, "rope_parameters", None) or {}
    if config.hidden_act != "silu":
        return f"its activation is {config.hidden_act}"
    if rope.get("rope_type", "default") not in ("default", "linear", "yarn", "llama3"):
        return f"its positions are stretched by {rope['rope_type']}"
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        return "only a part of each head is rotated"
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or (config.model_type == "mistral" and config.sliding_window):
        return "its attention sees a sliding window"
    return ""


def head_size(config: "PretrainedConfig") -> int:
    """How many numbers an attention head has."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def positions(config: "PretrainedConfig") -> int:
    """How many tokens the exported model can read."""
    return min(longest_text(config) or MOST_POSITIONS, MOST_POSITIONS)


def caches(config: "PretrainedConfig") -> list[str]:
    """Names of the parts of the cache, as they follow `past_key_values.` and `present.`."""
    return [f"{layer}.{kind}" for layer in range(config.num_hidden_layers) for kind in ("key", "value")]


class GraphBuilder:
    """Writes the nodes of a model with this config, whose matrices are stored as `weights` says, by module."""

    def __init__(self, config: "PretrainedConfig", weights: dict[str, Weight], biases: set[str]):
        self._config, self._weights, self._biases = config, weights, biases
        self._nodes: list[NodeProto] = []

    def model(self) -> "ModelProto":
        """Return the graph without its initializers."""
        from onnx import helper

        self._lengths()
        hidden = self._embedded()
        for layer in range(self._config.num_hidden_layers):
            hidden = self._layer(f"model.layers.{layer}", layer, hidden)
        hidden = self._normed(NORM, hidden)
        self._head(hidden)
        graph = helper.make_graph(self._nodes, "leanpipe", list(self._inputs()), list(self._outputs()))
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(_MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="leanpipe")

    def _node(self, kind: str, inputs: list[str], name: str, domain: str = "", **attributes: Any) -> str:
        from onnx import helper

        outputs = attributes.pop("outputs", [f"{name}.out"])
        self._nodes.append(
            helper.make_node(kind, inputs, outputs, name=name, domain=domain or None, **attributes)
        )
        return outputs[0]

    def _lengths(self) -> None:
        """What attention must know of the text: its length, of each row and of all."""
        from onnx import TensorProto

        summed = self._node("ReduceSum", ["attention_mask", "constant.one"], "length", keepdims=0)
        less = self._node("Sub", [summed, "constant.one"], "last")
        self._node("Cast", [less], "seqlens", to=TensorProto.INT32, outputs=["seqlens_k"])
        shape = self._node("Shape", ["attention_mask"], "mask.shape")
        whole = self._node("Gather", [shape, "constant.second"], "mask.length", axis=0)
        self._node("Cast", [whole], "total", to=TensorProto.INT32, outputs=["total_length"])

    def _embedded(self) -> str:
        weight = self._weights[EMBEDDING]
        if not weight.bits:
            return self._node("Gather", [f"{EMBEDDING}.weight", "input_ids"], EMBEDDING)
        return self._node(
            "GatherBlockQuantized",
            [f"{EMBEDDING}.rows", "input_ids", f"{EMBEDDING}.scales"],
            EMBEDDING,
            _MICROSOFT,
            bits=weight.bits,
            block_size=32,
            gather_axis=0,
            quantize_axis=1,
        )

    def _layer(self, place: str, layer: int, hidden: str) -> str:
        attended = self._attention(
            f"{place}.self_attn", layer, self._normed(f"{place}.input_layernorm", hidden)
        )
        hidden = self._node("Add", [hidden, attended], f"{place}.attended")
        normed = self._normed(f"{place}.post_attention_layernorm", hidden)
        gate = self._product(f"{place}.mlp.gate_proj", normed)
        up = self._product(f"{place}.mlp.up_proj", normed)
        sigmoid = self._node("Sigmoid", [gate], f"{place}.mlp.sigmoid")
        silu = self._node("Mul", [gate, sigmoid], f"{place}.mlp.silu")
        gated = self._node("Mul", [silu, up], f"{place}.mlp.gated")
        return self._node("Add", [hidden, self._product(f"{place}.mlp.down_proj", gated)], f"{place}.done")

    def _attention(self, place: str, layer: int, hidden: str) -> str:
        query, key, value = (self._product(f"{place}.{one}_proj", hidden) for one in "qkv")
        if self._config.model_type == "qwen3":
            query = self._normed_heads(f"{place}.q_norm", query, self._config.num_attention_heads)
            key = self._normed_heads(f"{place}.k_norm", key, self._config.num_key_value_heads)
        past, present = f"past_key_values.{layer}", f"present.{layer}"
        attended = self._node(
            "GroupQueryAttention",
            [
                query,
                key,
                value,
                f"{past}.key",
                f"{past}.value",
                "seqlens_k",
                "total_length",
                "cos",
                "sin",
            ],
            f"{place}.attention",
            _MICROSOFT,
            num_heads=self._config.num_attention_heads,
            kv_num_heads=self._config.num_key_value_heads,
            do_rotary=1,
            rotary_interleaved=0,
            outputs=[f"{place}.attention.out", f"{present}.key", f"{present}.value"],
        )
        return self._product(f"{place}.o_proj", attended)

    def _normed(self, module: str, hidden: str) -> str:
        return self._node(
            "SimplifiedLayerNormalization",
            [hidden, f"{module}.weight"],
            module,
            axis=-1,
            epsilon=self._config.rms_norm_eps,
            stash_type=1,
        )

    def _normed_heads(self, module: str, hidden: str, heads: int) -> str:
        """Norm each head by itself: onnxruntime's attention does so on GPUs alone."""
        apart = self._node(
            "Constant", [], f"{module}.heads", value_ints=[0, 0, heads, head_size(self._config)]
        )
        flat = self._node(
            "Constant", [], f"{module}.flat", value_ints=[0, 0, heads * head_size(self._config)]
        )
        normed = self._normed(module, self._node("Reshape", [hidden, apart], f"{module}.apart"))
        return self._node("Reshape", [normed, flat], f"{module}.together")

    def _product(self, module: str, hidden: str, output: str = "") -> str:
        weight = self._weights[module]
        outputs: dict[str, Any] = {"outputs": [output]} if output else {}
        if weight.bits:
            product = self._node(
                "MatMulNBits",
                [hidden, f"{module}.blocks", f"{module}.scales"],
                module,
                _MICROSOFT,
                bits=weight.bits,
                block_size=32,
                N=weight.rows,
                K=weight.columns,
                accuracy_level=ACCURACY_LEVEL,
                **outputs,
            )
        else:
            turned = self._node("Transpose", [f"{module}.weight"], f"{module}.turned", perm=[1, 0])
            product = self._node("MatMul", [hidden, turned], module, **outputs)
        if module in self._biases:
            product = self._node("Add", [product, f"{module}.bias"], f"{module}.biased")
        return product

    def _head(self, hidden: str) -> None:
        self._product(HEAD, hidden, "logits")

    def _inputs(self) -> "Iterator[ValueInfoProto]":
        from onnx import TensorProto, helper

        yield helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])
        yield helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "total"])
        for name in caches(self._config):
            yield self._cache(f"past_key_values.{name}", "past")

    def _outputs(self) -> "Iterator[ValueInfoProto]":
        from onnx import TensorProto, helper

        shape = ["batch", "sequence", self._config.vocab_size]
        yield helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)
        for name in caches(self._config):
            yield self._cache(f"present.{name}", "total")

    def _cache(self, name: str, length: str) -> "ValueInfoProto":
        from onnx import TensorProto, helper

        shape = ["batch", self._config.num_key_value_heads, length, head_size(self._config)]
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
