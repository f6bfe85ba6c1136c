"""The sections of a configuration that belong to the core, with one options model each. Plugins have their own."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt, ValidationInfo, field_validator

from rosepo_core.contracts.options import CHANGES_NO_RESULT, Options

Protocol = Literal["candidates", "catalogue", "free"]
Negatives = Literal["uniform", "popularity", "semantic"]
Reference = Literal["sft", "prior", "none"]
Score = Literal["likelihood", "mean", "prior-corrected", "fusion"]
SCORES: tuple[Score, ...] = get_args(Score)
"""All scores, by which language models can rank. A score needs everything that those before it need."""


def _without_blanks(names: str) -> str:
    """Names separated by commas, without blanks.

    Raises:
        ValueError: there is no name.
    """
    found = [name.strip() for name in names.split(",") if name.strip()]
    if not found:
        raise ValueError("name at least one")
    return ",".join(found)


def _number_or_auto(value: Any) -> Any:
    """A number of tokens, or ``"auto"``.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    if value != "auto" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ValueError("give a number of tokens, 1 or more, or 'auto'")
    return value


TokenBudget = Annotated[int | Literal["auto"], BeforeValidator(_number_or_auto)]
"""Most tokens of a forward pass, padding included; ``"auto"`` leaves it to `engine.passes`."""


def _switch_or_auto(value: Any) -> Any:
    """True, false or ``"auto"``.

    Raises:
        ValueError: it is none of these.
    """
    switch = {"true": True, "false": False}.get(value.strip().lower(), value) if isinstance(value, str) else value
    if switch != "auto" and not isinstance(switch, bool):
        raise ValueError("give true, false or 'auto'")
    return switch


Compile = Annotated[bool | Literal["auto"], BeforeValidator(_switch_or_auto)]
"""Whether to compile; ``"auto"`` leaves it to `engine.regions`."""

HeldOut = Literal["test", "validation"]
Tracker = Literal["tensorboard", "wandb", "mlflow", "trackio"]
Schedule = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "cosine_with_min_lr",
    "polynomial",
    "inverse_sqrt",
    "constant",
    "constant_with_warmup",
    "warmup_stable_decay",
]
"""The names that transformers has for how a learning rate changes."""


def one_or_several(value: Any) -> Any:
    """A single name as a tuple, and anything else unchanged."""
    return (value,) if isinstance(value, str) else value


class ModelOptions(Options):
    """Section ``[model]``: the language model to start from."""

    name: str = Field(
        "smollm2-135m",
        min_length=1,
        description="Alias ('smollm2-135m'), hub id, local folder with safetensors, or GGUF file.",
    )
    dtype: Literal["bfloat16", "float32", "auto"] = Field(
        "auto",
        description="Number type of the model's computations. 'auto' is bfloat16 for a model saved in 16 bits if "
        "bfloat16 is faster here (this is measured), and float32 otherwise.",
    )
    quantization: Literal["none", "nf4"] = Field(
        "none",
        description="'nf4' keeps the frozen base model in 4 bits and trains adapters beside it (QLoRA), with "
        "products in bfloat16; it needs `pip install 'rosepo[gpu]'`.",
    )

    @field_validator("quantization")
    @classmethod
    def _in_bfloat16(cls, value: str, info: ValidationInfo) -> str:
        if value == "nf4" and info.data.get("dtype") == "float32":
            raise ValueError("its products are in bfloat16; leave model.dtype out")
        return value

    token_budget: TokenBudget = Field(
        "auto",
        json_schema_extra=CHANGES_NO_RESULT,
        description="Most tokens of a forward pass in scoring, sampling and decoding, padding included; decides "
        "memory and speed, never a result. 'auto' is 4096 on a CPU; on a GPU it is found from the free memory.",
    )

    compile: Compile = Field(
        "auto",
        json_schema_extra=CHANGES_NO_RESULT,
        description="Compile the layers of the model in training; decides speed, never a result. 'auto' compiles on "
        "a GPU if the training takes long enough to gain from it.",
    )


class SplitOptions(Options):
    """Section ``[split]``: which interactions are held out."""

    strategy: Literal["auto", "leave-one-out", "temporal"] = Field(
        "auto",
        description="'leave-one-out' holds out each user's last interaction (and the one before it for validation). "
        "'temporal' divides all users at the same two points in time. 'auto' keeps the parts of a dataset that is "
        "already split, and is 'leave-one-out' otherwise.",
    )
    validation_fraction: float = Field(
        0.1, gt=0, lt=1, description="Share of interactions between the two points in time ('temporal' only)."
    )
    test_fraction: float = Field(
        0.1, gt=0, lt=1, description="Share of interactions after the second point in time ('temporal' only)."
    )


class TrainingOptions(Options):
    """What both trainings have: how long, how fast and in what memory."""

    steps: int | None = Field(None, ge=0, description="Optimizer steps; overrides epochs, and 0 trains nothing.")
    epochs: float = Field(1.0, gt=0, description="Passes over what is trained on.")
    token_budget: TokenBudget = Field(
        "auto",
        json_schema_extra=CHANGES_NO_RESULT,
        description="Most tokens of a forward pass, padding included; decides memory and speed, never a result. "
        "'auto' is 1024 on a CPU; on a GPU it is found from the free memory.",
    )
    warmup_ratio: float = Field(0.1, ge=0, le=1, description="Share of the steps in which the learning rate rises.")
    lr_scheduler_type: Schedule = Field(
        "linear",
        description="How the learning rate changes after it has risen: 'linear' and 'cosine' fall to 0, and "
        "'constant_with_warmup' stays. Only 'constant' does without the rise. Their arguments go into "
        "trainer.lr_scheduler_kwargs.",
    )
    gradient_accumulation_steps: int = Field(
        1,
        ge=1,
        description="Batches per optimizer step. The gradient is that of all of them at once. Memory is no reason "
        "for it, because a batch is computed in passes of 'token_budget' tokens.",
    )
    optim: str = Field(
        "adamw_torch_fused", min_length=1, description="The optimizer, by its name in transformers, such as 'sgd'."
    )
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay.")
    max_grad_norm: float = Field(1.0, ge=0, description="Clip the gradient to this norm; 0 clips nothing.")
    trainer: dict[str, Any] = Field(
        {}, description="Further arguments of TRL's SFTConfig or DPOConfig, such as adam_beta2 or logging_steps."
    )


class SFTOptions(TrainingOptions):
    """Section ``[sft]``: supervised fine-tuning on the next title."""

    method: Literal["lora", "full"] = Field(
        "lora",
        description="'lora' trains an adapter; 'full' trains all weights, and keeps and saves them in float32.",
    )
    objective: Literal["tokens", "choice"] = Field(
        "tokens",
        description="What is learned. 'tokens': to write the next title, token by token. 'choice': to choose it "
        "among 'negatives' other titles by log p(title | history) - log p(title). log p(title) is the prior of the "
        "model before training.",
    )
    negatives: int = Field(
        3,
        ge=1,
        description="Other titles to choose from ('choice' only), drawn uniformly among those without a training "
        "interaction of the user.",
    )
    beta: float = Field(
        0.1,
        gt=0,
        description="Scale of log p(title | history) - log p(title) in the softmax ('choice' only). Sums over the "
        "tokens of a title differ by many nats, so at a scale of 1 a model would be far too sure of its choices.",
    )
    lora_rank: int = Field(16, ge=1, description="Rank of the adapter.")
    lora_alpha: float = Field(32.0, gt=0, description="Scale of the adapter, divided by the rank.")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before the adapter.")
    target_modules: Annotated[str, AfterValidator(_without_blanks)] = Field(
        "all-linear",
        description="Linear layers that get an adapter: 'all-linear', or names separated by commas.",
    )
    learning_rate: float = Field(5e-4, gt=0, description="Peak learning rate.")
    batch_size: int = Field(8, ge=1, description="Windows (timeline) or examples (chat) in a batch.")
    gradient_checkpointing: bool = Field(
        False,
        json_schema_extra=CHANGES_NO_RESULT,
        description="Recompute activations to save memory, in SFT and in alignment.",
    )
    max_users: int | None = Field(None, ge=1, description="Train on this many users, drawn at random; all if unset.")
    patience: int = Field(
        0,
        ge=0,
        description="Judge the model by NDCG@10 on validation users, keep the best weights, and end when so many "
        "results bring no better one. 0 trains to the end and keeps the last weights.",
    )
    validate_every: int = Field(50, ge=1, description="Steps between two results ('patience' only).")
    validation_users: int = Field(
        200, ge=1, description="Judge by this many validation users, drawn at random ('patience' only)."
    )

    @field_validator("lora_rank", "lora_alpha", "lora_dropout", "target_modules")
    @classmethod
    def _of_adapters_alone(cls, value: Any, info: ValidationInfo) -> Any:
        assert info.field_name is not None
        if info.data.get("method") == "full" and value != cls.model_fields[info.field_name].default:
            raise ValueError("method = 'full' trains no adapter; leave it out")
        return value

    @field_validator("negatives", "beta")
    @classmethod
    def _of_choices_alone(cls, value: float, info: ValidationInfo) -> float:
        assert info.field_name is not None
        if info.data.get("objective") == "tokens" and value != cls.model_fields[info.field_name].default:
            raise ValueError("objective = 'tokens' trains on the targets alone; leave it out, or set 'choice'")
        return value

    @field_validator("validate_every", "validation_users")
    @classmethod
    def _of_validation_alone(cls, value: int, info: ValidationInfo) -> int:
        assert info.field_name is not None
        if info.data.get("patience") == 0 and value != cls.model_fields[info.field_name].default:
            raise ValueError("patience = 0 judges nothing; leave it out, or set patience")
        return value

    @field_validator("lora_dropout")
    @classmethod
    def _without_dropout(cls, value: float, info: ValidationInfo) -> float:
        if info.data.get("objective") == "choice" and value:
            raise ValueError("objective = 'choice' trains without dropout; leave it out")
        return value


class PreferenceOptions(Options):
    """Section ``[preferences]``: how many pairs are made."""

    negatives: int = Field(1, ge=1, description="Rejected responses for each chosen one (K).")
    max_pairs: int | None = Field(
        None,
        ge=1,
        description="Keep at most this many pairs, drawn at random. Users are kept whole as far as possible, and a "
        "target always keeps all its K rejected responses. If unset, keep all.",
    )
    max_users: int | None = Field(None, ge=1, description="Make pairs for this many users, drawn at random.")
    max_per_user: int | None = Field(None, ge=1, description="Make pairs for this many latest targets of each user.")


class AlignmentOptions(TrainingOptions):
    """Section ``[alignment]``: preference optimization. It continues to train the adapter or weights of SFT."""

    learning_rate: float = Field(5e-5, gt=0, description="Peak learning rate.")
    batch_size: int = Field(8, ge=1, description="Token trees in a batch.")
    reference: Reference = Field(
        "sft",
        description="What a loss with a reference compares the model with. 'sft': log p(title | history) of the SFT "
        "model, so that the loss begins at a margin of 0 (ln 2 for DPO). 'prior': log p(title) of the SFT model "
        "without a history, so that preferences are learned on log p(title | history) - log p(title). 'none': 0.",
    )


class EvaluationOptions(Options):
    """Section ``[evaluation]``: how models are compared."""

    protocols: tuple[Protocol, ...] = Field(
        ("candidates",),
        min_length=1,
        description="Tasks for the models: 'candidates' (rank the target among random items), 'catalogue' (list the "
        "best of all unseen items), 'free' (write a title without any constraint).",
    )
    part: Annotated[tuple[HeldOut, ...], BeforeValidator(one_or_several)] = Field(
        ("test",),
        min_length=1,
        description="Held-out targets to predict: 'test', or 'validation' to choose settings without looking at the "
        "test. With both, each part has its own tables.",
    )
    candidates: int = Field(20, ge=2, description="Items ranked per test example, the target among them.")
    negatives: Annotated[tuple[Negatives, ...], BeforeValidator(one_or_several)] = Field(
        ("uniform",),
        min_length=1,
        description="How the other candidates are chosen among items new to the user: at random ('uniform'), at "
        "random in proportion to training popularity ('popularity'), or the titles nearest in meaning to the target "
        "('semantic'). With several, each is a protocol of its own.",
    )
    decoding: Literal["beam", "exact"] = Field(
        "beam",
        description="How a language model searches in 'catalogue': with beams, or exactly, which takes longer.",
    )
    beams: int = Field(20, ge=1, description="Number of beams; for an exact search it affects speed only.")
    ground: bool = Field(
        False, description="Also replace each answer of 'free' by the nearest titles: protocol 'free-grounded'."
    )
    max_users: int | None = Field(None, ge=1, description="Test on this many users, drawn at random; all if unset.")
    ks: tuple[PositiveInt, ...] = Field((1, 5, 10), min_length=1, description="Cut-offs of metrics that name none.")
    resamples: int = Field(10_000, ge=100, description="Bootstrap resamples behind intervals and paired tests.")


class CheckpointOptions(Options):
    """Section ``[checkpoint]``: what is kept of a stage in progress, so that an interrupted run loses little."""

    minutes: float = Field(
        10.0,
        ge=0,
        json_schema_extra=CHANGES_NO_RESULT,
        description="Save what a stage in progress has so far every this many minutes. After an interruption, the "
        "same command goes on from there. 0 saves after each step and block.",
    )


FEATURES = ("likelihood", "prior", "popularity", "oracle")
"""What `fusion` combines if nothing else is named."""


class RankingOptions(Options):
    """Section ``[ranking]``: the score by which language models rank titles (docs/ranking.md)."""

    score: Score = Field(
        "likelihood",
        description="'likelihood' is log p(title | history), 'mean' its mean over the title's tokens, "
        "'prior-corrected' log p(title | history) - log p(title), and 'fusion' a weighted sum of 'features'. "
        "Evaluation shows this score and all before it in this list; recommending uses this one.",
    )
    features: tuple[str, ...] = Field(
        FEATURES,
        min_length=1,
        description="What 'fusion' combines: 'likelihood', 'prior' (log p(title)), 'popularity' (its logarithm), "
        "or the name of another model in the table, such as 'oracle'.",
    )
    ridge: float = Field(
        1.0, gt=0, description="Penalty of 'fusion': half of this, times the sum of the squared weights."
    )
    pool: int = Field(
        200,
        ge=1,
        description="Titles that are scored for each user in 'catalogue' and in recommending, unless the score is "
        "'likelihood'. They come from several sources; if the catalogue has no more, the ranking is exact.",
    )

    @field_validator("features")
    @classmethod
    def _once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("name each feature once")
        return value
