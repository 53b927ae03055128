"""What one measured run is to do. Free of torch, as is the process that starts the runs."""

from dataclasses import asdict, dataclass
from typing import Any, Self

SINGLE, MULTI, EACH, GROUPS, LIMIT = "single", "multi", "each", "groups", "limit"
WAYS = (SINGLE, MULTI, EACH, GROUPS, LIMIT)
TURNS = {SINGLE: 8.0, MULTI: 6.0, EACH: 1.0, GROUPS: 0.6, LIMIT: 1.0}
"""About how long each way takes beside `each`."""
WALL, CPU = "wall", "cpu"
HOOKED_TRANSFORMER, AUTO_MODEL = "HookedTransformer", "AutoModelForCausalLM"
MODEL_CLASSES = (HOOKED_TRANSFORMER, AUTO_MODEL)
FLOAT32, BFLOAT16, AUTOCAST = "float32", "bfloat16", "autocast"
LM_DTYPES = (FLOAT32, BFLOAT16, AUTOCAST)

TOPK, MATRYOSHKA, JUMPRELU = "topk", "matryoshka_batchtopk", "jumprelu"
ARCHITECTURES = (TOPK, "batchtopk", "abstopk", MATRYOSHKA, JUMPRELU)
ESTIMATED = "expected_average_only_in"

K = 32
LR = 3e-4
CONTEXT_SIZE = 128
STORE_BATCH_SIZE_PROMPTS = 16
TOKENS_PER_LM_BATCH = STORE_BATCH_SIZE_PROMPTS * CONTEXT_SIZE
BATCHES_IN_BUFFER = 8
BATCHES_FOR_NORM_ESTIMATE = 4


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A language model, the SAEs for it, and how much of them is measured by default."""

    d_model: int
    n_heads: int
    d_vocab: int
    d_sae: int
    batch: int
    tokens: int
    single_layers: int
    """How many layers of `single` are measured, evenly spread; 0 for all."""
    n_layers: int = 12
    n_key_value_heads: int = 0
    """Of a Llama; 0 for the other models, whose heads all have keys and values of their own."""

    @property
    def is_llama(self) -> bool:
        """Whether it is a model of Hugging Face's with this architecture."""
        return self.n_key_value_heads > 0


SHAPES = {
    "toy": Shape(
        d_model=128,
        n_heads=4,
        d_vocab=1000,
        d_sae=2048,
        batch=2048,
        tokens=65_536,
        single_layers=0,
    ),
    "pythia-160m": Shape(
        d_model=768,
        n_heads=12,
        d_vocab=50_304,
        d_sae=12_288,
        batch=2048,
        tokens=16_384,
        single_layers=3,
    ),
    "smollm2-135m": Shape(
        n_layers=30,
        d_model=576,
        n_heads=9,
        n_key_value_heads=3,
        d_vocab=49_152,
        d_sae=9216,
        batch=2048,
        tokens=16_384,
        single_layers=3,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """One way, to be measured in a process of its own."""

    way: str
    shape_name: str
    model_class: str
    n_layers: int
    lm_dtype: str
    layer_groups: str
    single_layers: tuple[int, ...]
    normalize_activations: str
    tokens: int
    batch: int
    batches_in_buffer: int = BATCHES_IN_BUFFER
    device: str
    threads: int
    seed: int
    is_by_part: bool = False
    """Whether the seconds of each part are measured too."""
    layers_per_token: int = 1
    architecture: str = TOPK
    autocast: bool = False
    """Of the SAEs' steps; the language model's is `lm_dtype`."""
    clock: str = WALL
    sweep: tuple[str, ...] = ()
    """Of the ways each and groups: the settings trained in the same run, such as `k=16,32`."""

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """A job as `to_dict` gave it, also by way of JSON."""
        tuples = {name: tuple(values[name]) for name in ("single_layers", "sweep")}
        return cls(**{**values, **tuples})

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @property
    def shape(self) -> Shape:
        """The language model and the SAEs."""
        return SHAPES[self.shape_name]

    @property
    def n_steps(self) -> int:
        """Training steps of each SAE."""
        return self.tokens // self.batch

    @property
    def n_batches_in_buffer(self) -> int:
        """SAELens's setting of this name, which counts contexts rather than batches."""
        return self.batches_in_buffer * self.batch // CONTEXT_SIZE

    def hook_name(self, layer: int) -> str:
        """The residual stream after a layer."""
        if self.model_class == HOOKED_TRANSFORMER:
            return f"blocks.{layer}.hook_resid_post"
        return f"{'model' if self.shape.is_llama else 'gpt_neox'}.layers.{layer}"


def spread_layers(n_measured: int, n_layers: int) -> tuple[int, ...]:
    """The first layer, the last, and evenly spread ones between; all where `n_measured` is 0."""
    if n_measured == 0 or n_measured >= n_layers:
        return tuple(range(n_layers))
    last = n_layers - 1
    return tuple(position * last // (n_measured - 1) for position in range(n_measured))
