"""Tiny real models that the tests make themselves: a random llama with a byte-level BPE tokenizer."""

from pathlib import Path

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
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
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
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


NOUNS = "cat dog fox bird king ship moon tree house river child cook horse wolf duck".split()
VERBS = "sees likes finds calls follows helps paints hears feeds thanks".split()
ADJECTIVES = "old small red brave quiet happy clever tired young green".split()


def sentence(random) -> str:
    """One of 2.25 million sentences."""
    noun, other = random.choice(NOUNS), random.choice(NOUNS)
    return f"The {random.choice(ADJECTIVES)} {noun} {random.choice(VERBS)} the {random.choice(ADJECTIVES)} {other}."


def make_talking_llama(folder: Path, steps: int = 150) -> Path:
    """A tiny llama trained for some seconds on made-up chats and sentences, so that what it writes is text that ends."""
    import random

    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    make_tiny_llama(folder, seed=1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = LlamaForCausalLM.from_pretrained(folder)
    rng = random.Random(0)

    def chat() -> list[int]:
        turns = [{"role": "user", "content": sentence(rng)}, {"role": "assistant", "content": sentence(rng) + " " + sentence(rng)}]
        text = tokenizer.apply_chat_template(turns, tokenize=False)
        return tokenizer(text, add_special_tokens=False)["input_ids"][:127]

    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for step in range(steps):
        rows = [chat() for _ in range(8)]
        width = max(map(len, rows))
        ids = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows])
        labels = torch.tensor([row + [-100] * (width - len(row)) for row in rows])
        optimizer.param_groups[0]["lr"] = 4e-3 * (1 - step / steps)
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder
