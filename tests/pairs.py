"""Pairs of models that the tests make: a student with its teacher's words or with others, in chats of its own."""

from pathlib import Path

from tests import tiny

# No system message, other words around the turns, and another token at the end of an answer.
OWN_CHATS = (
    "{% for message in messages %}{% if message.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "<|im_start|>{{ message.role }}: {{ message.content }}<|endoftext|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant: {% endif %}"
)


def make_words(folder: Path, vocab: int = 512, template: str | None = tiny.CHAT_TEMPLATE) -> Path:
    """A folder with a tokenizer alone."""
    tokenizer = tiny.make_tokenizer(vocab)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


def make_sibling(
    folder: Path,
    *,
    vocab: int = 512,
    template: str | None = tiny.CHAT_TEMPLATE,
    padding: int = 0,
    tied: bool = True,
    context: int = 256,
) -> Path:
    """A random llama of two layers; `vocab` below 512 makes another tokenizer than `tiny.make_tokenizer`'s."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    make_words(folder, vocab, template)
    config = LlamaConfig(
        vocab_size=vocab + padding,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.1,
        rms_norm_eps=1e-5,
    )
    torch.manual_seed(3)
    LlamaForCausalLM(config).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    return folder
