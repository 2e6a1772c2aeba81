"""Three tiny tokenizers of exactly VOCABULARY tokens: byte-level BPE, WordPiece, Unigram.

Real enough to be loaded by a server and to give ids for any text; the goldens use ids directly.
"""

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from common import VOCABULARY, write_json

SPECIALS = ["<unk>", "<s>", "</s>", "<pad>"]
MERGES = [
    ("Ġ", "t"), ("h", "e"), ("i", "n"), ("Ġ", "a"), ("r", "e"), ("o", "n"), ("Ġt", "he"), ("e", "r"),
    ("Ġ", "s"), ("a", "t"), ("o", "r"), ("e", "n"), ("Ġ", "w"), ("i", "t"), ("Ġ", "o"), ("e", "s"),
    ("a", "n"), ("i", "s"), ("o", "u"), ("in", "g"), ("e", "d"), ("a", "l"), ("Ġ", "c"), ("l", "l"),
    ("a", "r"), ("Ġa", "n"), ("Ġan", "d"), ("Ġ", "m"),
]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<s>' + message['role'] + '\n' + message['content'] + '</s>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
)


def byte_level_tokens():
    """Specials, the 256 byte symbols in a fixed order, then one token a merge."""
    tokens = SPECIALS + sorted(pre_tokenizers.ByteLevel.alphabet()) + [a + b for a, b in MERGES]
    assert len(tokens) == VOCABULARY, len(tokens)
    return tokens


def write_byte_level(folder):
    vocabulary = {token: id for id, token in enumerate(byte_level_tokens())}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIALS])
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>",
        "add_bos_token": False, "chat_template": CHAT_TEMPLATE,
    })


def write_word_piece(folder):
    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + letters + ["##" + c for c in letters]
    words = "the and of to in is was for on that with as it by at from his be this are or an which have not " \
            "had were but their her all one they who has its been would when other".split()
    syllables = ["##" + s for s in
                 "ing ed er es ion ly al en or an at re th he in on te nd st is ar it ou le nt ve se of ea hi me ne wa"
                 " ti li ri io ro la el ma il de ce ur ic us co ra as ll ch ta un no so ee ss ow".split()]
    tokens += words + syllables
    tokens = list(dict.fromkeys(tokens))
    tokens += [f"[unused{i}]" for i in range(VOCABULARY - len(tokens))]
    assert len(tokens) == VOCABULARY, len(tokens)
    tokenizer = Tokenizer(models.WordPiece({t: i for i, t in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in tokens[:5]])
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": "BertTokenizer", "do_lower_case": True,
        "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]",
    })


def write_unigram(folder):
    # XLM-RoBERTa's order of specials.
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    seen = ["▁"] + [chr(c) for c in range(33, 127)] + [chr(c) for c in range(0xC0, 0x180)]
    words = ["▁the", "▁and", "▁of", "ing", "ed", "er", "▁in", "▁is"]
    pieces += [(w, -4.0 - 0.1 * i) for i, w in enumerate(words)]
    pieces += [(c, -8.0 - 0.01 * i) for i, c in enumerate(seen)]
    pieces = pieces[:VOCABULARY - 1] + [("<mask>", 0.0)]
    assert len(pieces) == VOCABULARY, len(pieces)
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=False, add_prefix_space=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": "XLMRobertaTokenizer",
        "cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>",
    })
