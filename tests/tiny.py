"""Tiny real models that the tests make themselves: random ones of each family, with a byte-level BPE tokenizer."""

from pathlib import Path

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + "
    "'<|im_end|>' + '\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

CORPUS = [
    "The quick brown fox jumps over the lazy dog. Once upon a time there was a small house by the sea.",
    "What is the capital of France? The capital of France is Paris.",
    "In 1984 there were 365 days and 12 months; 7 of them had 31 days.",
    "Please write a short story about a cat who wanted to learn to sail. def add(a, b):\n    return a + b\n",
    "She said: 'I can't believe it's already 10:45!' and ran — naïve, but quick — to the café.",
] * 8


def make_tokenizer(vocab_size: int = 512, chat: bool = True):
    """A byte-level BPE tokenizer split like SmolLM2's: single digits, then GPT-2's pattern."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    words = " ".join(NOUNS + VERBS + ADJECTIVES)
    tokenizer.train_from_iterator([*CORPUS, *[f"The {words}. user assistant"] * 8], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>" if chat else "<|endoftext|>",
        eos_token="<|im_end|>" if chat else "<|endoftext|>",
        pad_token="<|im_end|>" if chat else "<|endoftext|>",
        unk_token="<|endoftext|>",
    )
    if chat:
        fast.chat_template = CHAT_TEMPLATE
    return fast


def make_tiny_llama(
    folder: Path,
    *,
    layers: int = 4,
    width: int = 64,
    ffn: int = 128,
    heads: int = 4,
    kv_heads: int = 2,
    tied: bool = True,
    chat: bool = True,
    seed: int = 0,
    context: int = 256,
) -> Path:
    """Write a random llama as a Hugging Face folder (config, safetensors, tokenizer) and return the folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer(chat=chat)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=context,
        tie_word_embeddings=tied,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.15,
        rms_norm_eps=1e-5,
    )
    model = LlamaForCausalLM(config)
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):  # all ones would hide a norm that goes missing on export
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# What the tiny model of a family has beside the sizes: its patterns, scalings and biases, each once and none of them
# neutral. A window is shorter than the texts that tests run, the yarn and longrope factors act at a few dozen tokens.
VARIANTS: dict[str, dict[str, object]] = {
    "llama": {
        "attention_bias": True,
        "mlp_bias": True,
        "head_dim": 32,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    },
    "mistral": {"tie_word_embeddings": False, "sliding_window": 256, "head_dim": 32},
    "qwen2": {
        "tie_word_embeddings": True,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1000000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    },
    "qwen3": {"head_dim": 32, "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}},
    "gemma3_text": {
        "num_hidden_layers": 7,
        "head_dim": 32,
        "query_pre_attn_scalar": 32,
        "sliding_window": 16,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
    },
    "phi3": {
        "original_max_position_embeddings": 512,
        "max_position_embeddings": 2048,
        "head_dim": None,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.75,
            "short_factor": [1.0, 1.1, 1.3, 1.4, 1.6, 2.0],
            "long_factor": [1.0, 1.5, 2.0, 4.0, 8.0, 16.0],
        },
    },
    "smollm3": {"num_hidden_layers": 5, "rope_parameters": {"rope_type": "default", "rope_theta": 50000.0}},
    "granite": {
        "attention_bias": True,
        "mlp_bias": True,
        "embedding_multiplier": 2.0,
        "residual_multiplier": 0.6,
        "attention_multiplier": 0.4,
        "logits_scaling": 0.7,
        "tie_word_embeddings": True,
    },
    "olmo2": {},
}


def make_tiny(family: str, folder: Path, seed: int = 0, **changes: object) -> Path:
    """Write a random model of a family as a Hugging Face folder: `VARIANTS` of it, with `changes` to its config.

    Norms and biases are random too: ones and zeros would hide a tensor that goes missing or is misplaced on export.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = make_tokenizer()
    values: dict[str, object] = {
        "vocab_size": len(tokenizer) + 5,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "initializer_range": 0.15,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **VARIANTS[family],
        **changes,
    }
    config = AutoConfig.for_model(family, **{key: value for key, value in values.items() if value is not None})
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    offset = 1.0 if family == "gemma3_text" else 0.0  # its norms multiply by 1 + w
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            torch.nn.init.uniform_(parameter, 0.5 - offset, 1.5 - offset)
        elif name.endswith(".bias"):
            torch.nn.init.normal_(parameter, std=0.5)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


NOUNS = "cat dog fox bird king ship moon tree house river child cook horse wolf duck".split()
VERBS = "sees likes finds calls follows helps paints hears feeds thanks".split()
ADJECTIVES = "old small red brave quiet happy clever tired young green".split()


def sentence(random) -> str:
    """One of 2.25 million sentences."""
    noun, other = random.choice(NOUNS), random.choice(NOUNS)
    return f"The {random.choice(ADJECTIVES)} {noun} {random.choice(VERBS)} the {random.choice(ADJECTIVES)} {other}."


def make_talking_llama(folder: Path, steps: int = 150) -> Path:
    """A tiny llama trained for some seconds on made-up chats and sentences, so that what it writes is text that
    ends.
    """
    return teach_to_talk(make_tiny_llama(folder, seed=1), steps)


KNOWN = {
    "What is the capital of France?": "The capital of France is Paris.",
    "Please write a short story.": "Once upon a time a cat wanted to learn to sail.",
    "How many days are there?": "In 1984 there were 366 days.",
}


def make_knowing_llama(folder: Path, system: str | None = None) -> Path:
    """A tiny llama trained for some seconds on KNOWN alone: so sure of its answers that every runtime gives the
    same. Each of its chats began with `system`, where there is one.
    """
    return teach_to_talk(make_tiny_llama(folder, seed=1), 60, answers=KNOWN, system=system)


def teach_to_talk(
    folder: Path,
    steps: int,
    rate: float = 4e-3,
    answers: dict[str, str] | None = None,
    system: str | None = None,
) -> Path:
    """Train the model of a folder on made-up chats, or on questions and their answers."""
    import random

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    rng = random.Random(0)

    def chat() -> list[int]:
        asked, said = (
            rng.choice(list(answers.items())) if answers else (sentence(rng), sentence(rng) + " " + sentence(rng))
        )
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
        if system is not None:
            turns.insert(0, {"role": "system", "content": system})
        text = tokenizer.apply_chat_template(turns, tokenize=False)
        return tokenizer(text, add_special_tokens=False)["input_ids"][:127]

    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    for step in range(steps):
        rows = [chat() for _ in range(8)]
        width = max(map(len, rows))
        ids = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows])
        labels = torch.tensor([row + [-100] * (width - len(row)) for row in rows])
        optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder
