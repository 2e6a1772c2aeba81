"""Golden token ids. Needs: transformers 5.23, tokenizers, sentencepiece, gguf; and, for the two real
vocabularies, the models under JANUS_TEST_MODELS.

Small vocabularies of every kind are trained on the spot and written in the shape a GGUF file or a
tokenizer.json has them; the ids beside them come from the library the kind comes from (tokenizers,
sentencepiece), those of the real models from transformers. Special tokens' names in the texts stay text.

Each file: {"vocabulary" or "file", "ids": one list a text of corpus.json, ...}.
"""

import base64
import collections
import json
import os
import pathlib
import sys
import tempfile

import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer
from transformers.integrations.gguf import gguf_tokenizer_mapping as hf
from transformers.tokenization_utils_base import generate_merges

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from corpus import TEXTS, training_lines

HERE = pathlib.Path(__file__).parent
MODELS = pathlib.Path(os.environ.get("JANUS_TEST_MODELS", pathlib.Path.home() / ".cache/janus-test-models"))
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


def write(name, value):
    """One line a top-level list element, so that a changed text is a changed line."""
    with open(HERE / name, "w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, separators=(",", ":"))
        file.write("\n")


def plain_ids(tokenizer, add_special=False):
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return [tokenizer.encode(text, add_special_tokens=add_special).ids for text in TEXTS]


def save(folder, tokenizer, config, generation=None):
    """A model's folder with nothing but its tokenizer, as published ones have it."""
    (HERE / folder).mkdir(exist_ok=True)
    tokenizer.save(str(HERE / folder / "tokenizer.json"), pretty=False)
    write(f"{folder}/tokenizer_config.json", config)
    if generation:
        write(f"{folder}/generation_config.json", generation)


# --- Byte-level BPE: one vocabulary whose merges cross every boundary, so that each way of cutting shows.

GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), behavior="isolated")


def sequence(*parts):
    return pre_tokenizers.Sequence(list(parts))


QWEN2 = hf._QWEN2_SPLIT
DIGITS = pre_tokenizers.Digits(individual_digits=True)
# In the components the families' own tokenizer.json files use.
PRE_TOKENIZERS = {
    "llama-bpe": sequence(split(hf._LLAMA3_SPLIT), BYTES),
    "dbrx": sequence(split(hf._LLAMA3_SPLIT), BYTES),
    "qwen2": sequence(split(QWEN2), BYTES),
    "qwen35": sequence(split(hf._QWEN35_SPLIT), BYTES),
    "gpt-2": GPT2,
    "smollm": sequence(DIGITS, GPT2),
    "starcoder": sequence(DIGITS, GPT2),
    "command-r": sequence(DIGITS, GPT2),
    "refact": sequence(DIGITS, GPT2),
    "tekken": sequence(split(hf._TEKKEN_SPLIT), BYTES),
    "gpt-4o": sequence(split(hf._GPT4O_SPLIT), BYTES),
    "falcon": sequence(
        pre_tokenizers.Punctuation(behavior="contiguous"),
        GPT2,
        split(r"[0-9][0-9][0-9]"),
    ),
    "deepseek-v3": sequence(
        split(r"\p{N}{1,3}"),
        split("[一-龥぀-ゟ゠-ヿ]+"),
        split(
            r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
            r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
        ),
        BYTES,
    ),
    "deepseek-coder": sequence(
        split(r"[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split("[一-龥ࠀ-一가-퟿]+"), DIGITS, BYTES
    ),
    "seed-coder": sequence(
        split(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+"
            r"|\s*[\r\n]+|\s+(?!\S)|\s+"
        ),
        BYTES,
    ),
    "bailingmoe": sequence(
        split(
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*"
            r"|\s*[\r\n]|\s+(?!\S)|\s+"
        ),
        BYTES,
    ),
    "bloom": sequence(split(r" ?[^(\s|.,!?…。，、।۔،)]+"), BYTES),
}
WHOLE_WORDS_FIRST = {"llama-bpe", "tekken"}


def byte_level():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = BYTES
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=1100, initial_alphabet=alphabet, special_tokens=specials, show_progress=False, max_token_length=14
    )
    tokenizer.train_from_iterator(training_lines(), trainer)
    state = json.loads(tokenizer.to_str())["model"]
    tokens = [name for name, _ in sorted(state["vocab"].items(), key=lambda item: item[1])]
    # A whole word no merges lead to, and a token that is found in text but is not special.
    whole, tag = "Ġwindows", "<think>"
    assert whole not in state["vocab"]
    tokens += [whole, tag]
    vocabulary = {
        "model": "gpt2",
        "tokens": tokens,
        "merges": [" ".join(pair) for pair in state["merges"]],
        "token_types": [CONTROL] * 3 + [NORMAL] * (len(tokens) - 4) + [USER_DEFINED],
        "bos_token_id": 0,
        "eos_token_id": 2,
    }
    ids = {}
    for name, pre_tokenizer in PRE_TOKENIZERS.items():
        reference = Tokenizer(
            models.BPE(
                vocab={token: at for at, token in enumerate(tokens)},
                merges=[tuple(pair) for pair in state["merges"]],
                ignore_merges=name in WHOLE_WORDS_FIRST,
            )
        )
        reference.pre_tokenizer = pre_tokenizer
        reference.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
        reference.add_tokens([AddedToken(tag, normalized=False)])
        ids[name] = plain_ids(reference)
        if name == "qwen2":
            reference.decoder = decoders.ByteLevel()
            save("byte_level", reference, {"bos_token": None, "eos_token": "<|im_end|>"}, {"eos_token_id": [2, 0]})
    write("byte_level.json", {"vocabulary": vocabulary, "ids": ids})


# --- SentencePiece


def trained(**options):
    with tempfile.TemporaryDirectory() as folder:
        lines = pathlib.Path(folder) / "lines.txt"
        lines.write_text("\n".join(training_lines()), encoding="utf-8")
        prefix = str(pathlib.Path(folder) / "model")
        sentencepiece.SentencePieceTrainer.train(
            input=str(lines),
            model_prefix=prefix,
            minloglevel=2,
            num_threads=1,
            hard_vocab_limit=False,
            **options,
        )
        return pathlib.Path(prefix + ".model").read_bytes()


def pieces(model, architecture):
    proto = model_pb2.ModelProto.FromString(model)
    kinds = {1: NORMAL, 2: UNKNOWN, 3: CONTROL, 4: USER_DEFINED, 5: UNUSED, 6: BYTE}
    return {
        "architecture": architecture,
        "tokens": [piece.piece for piece in proto.pieces],
        "scores": [piece.score for piece in proto.pieces],
        "token_types": [kinds[piece.type] for piece in proto.pieces],
        "unknown_token_id": proto.trainer_spec.unk_id,
        "bos_token_id": proto.trainer_spec.bos_id,
        "eos_token_id": proto.trainer_spec.eos_id,
    }


def sentencepiece_rows(model):
    """Ids, and the text they stand for; NUL ends a text for sentencepiece, so such rows are empty."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    ids = [None if "\0" in text else processor.encode(text) for text in TEXTS]
    return {"ids": ids, "decoded": [None if row is None else processor.decode(row) for row in ids]}


def llama():
    options = dict(
        model_type="bpe",
        vocab_size=1000,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        character_coverage=0.98,
        allow_whitespace_only_pieces=True,
    )
    model = trained(**options)
    vocabulary = {"model": "llama", **pieces(model, "llama")}
    write("sentencepiece_bpe.json", {"vocabulary": vocabulary, **sentencepiece_rows(model)})
    save("sentencepiece_bpe", llama_file(vocabulary), {"bos_token": {"content": "<s>"}, "eos_token": "</s>"})
    # Gemma: no space before a text, runs of spaces and line ends as tokens of their own.
    runs = ["\n" * count for count in range(2, 5)] + ["▁" * count for count in range(2, 9)]
    model = trained(add_dummy_prefix=False, user_defined_symbols=["<start_of_turn>"] + runs, **options)
    vocabulary = pieces(model, "gemma3")
    # As converters write them: spaces unescaped.
    vocabulary["tokens"] = [
        token.replace("▁", " ") if kind == USER_DEFINED else token
        for token, kind in zip(vocabulary["tokens"], vocabulary["token_types"])
    ]
    write(
        "sentencepiece_gemma.json",
        {
            "vocabulary": {"model": "llama", "add_space_prefix": False, **vocabulary},
            **sentencepiece_rows(model),
        },
    )


def llama_file(vocabulary):
    """The tokenizer.json Llama 2 was published with, for this vocabulary."""
    tokens = vocabulary["tokens"]
    ids = {token: at for at, token in enumerate(tokens)}
    merges = generate_merges(ids, dict(zip(tokens, vocabulary["scores"])), skip_tokens=["<unk>", "<s>", "</s>"])
    tokenizer = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in ("<unk>", "<s>", "</s>")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def unigram():
    # Published normalisers have a quarter of a megabyte; a few rules take the same path.
    rules = {"ﬁ": "fi", "ﬂ": "fl", "½": "1/2", "…": "...", "２": "2", "Ａ": "A", "ａ": "a", "\t": " ", "\u00a0": " "}
    rules |= {"e\u0301": "é", "\u3000": " ", "㎏": "kg", "ﾊ": "ハ", "\u200b": ""}
    with tempfile.NamedTemporaryFile("w", suffix=".tsv", encoding="utf-8") as table:
        for source, target in rules.items():
            codes = [" ".join(f"{ord(character):X}" for character in side) for side in (source, target)]
            table.write("\t".join(codes) + "\n")
        table.flush()
        model = trained(
            model_type="unigram",
            vocab_size=900,
            character_coverage=0.98,
            pad_id=3,
            normalization_rule_tsv=table.name,
        )
    proto = model_pb2.ModelProto.FromString(model)
    charsmap = proto.normalizer_spec.precompiled_charsmap
    vocabulary = {"model": "t5", **pieces(model, "t5"), "add_eos_token": False}
    # tokenizers normalises whole grapheme clusters where sentencepiece goes by characters, which shows where
    # marks are stacked. Models served from tokenizer.json have the former, and so do we.
    reference = Tokenizer(
        models.Unigram(list(zip(vocabulary["tokens"], vocabulary["scores"])), unk_id=vocabulary["unknown_token_id"])
    )
    reference.normalizer = normalizers.Sequence(
        [
            normalizers.Precompiled(charsmap),
            normalizers.Replace(Regex(r"\A +| +\z"), ""),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    reference.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    reference.decoder = decoders.Metaspace(prepend_scheme="always")
    reference.add_special_tokens(
        [token for token, kind in zip(vocabulary["tokens"], vocabulary["token_types"]) if kind in (CONTROL, UNKNOWN)]
    )
    save("unigram", reference, {"eos_token": "</s>", "unk_token": "<unk>"})
    reference.encode_special_tokens = True
    rows = sentencepiece_rows(model)
    for at, (text, expected) in enumerate(zip(TEXTS, rows["ids"])):
        ids = reference.encode(text).ids
        if expected is None or any(vocabulary["token_types"][id] == CONTROL for id in ids):
            # It finds control tokens in text, and so cannot say what such a text should be.
            rows["ids"][at] = rows["decoded"][at] = None
            continue
        if ids != expected:
            print("unigram: tokenizers and sentencepiece differ on", repr(text))
        rows["ids"][at], rows["decoded"][at] = ids, reference.decode(ids)
    write(
        "unigram.json",
        {"vocabulary": vocabulary, "charsmap_base64": base64.b64encode(charsmap).decode(), **rows},
    )


# --- WordPiece


def word_pieces(normalizer, specials):
    """The most frequent pieces of words. Trainers break ties by chance; counting does not."""
    counts = collections.Counter()
    for line in training_lines():
        for word, _ in pre_tokenizers.BertPreTokenizer().pre_tokenize_str(normalizer.normalize_str(line)):
            for start in range(len(word)):
                mark = "##" if start else ""
                counts.update(mark + word[start:end] for end in range(start + 1, min(len(word), start + 8) + 1))
    ranked = sorted(counts.items(), key=lambda item: (-item[1] * len(item[0]), item[0]))
    characters = [piece for piece, _ in ranked if len(piece.removeprefix("##")) == 1]
    longer = [piece for piece, _ in ranked if len(piece.removeprefix("##")) > 1]
    return specials + characters[:420] + longer[:300]


def word_piece(name, lowercase):
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokens = word_pieces(normalizer, specials)
    ids = {token: at for at, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in specials])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)

    def phantom(token):
        if token in specials:
            return token
        return token[2:] if token.startswith("##") else "\u2581" + token

    ids = plain_ids(tokenizer, add_special=True)
    vocabulary = {
        "model": "bert",
        "tokens": [phantom(token) for token in tokens],
        "token_types": [CONTROL if token in specials else NORMAL for token in tokens],
        "unknown_token_id": 1,
        "cls_token_id": 2,
        "separator_token_id": 3,
    }
    decoded = [tokenizer.decode(row, skip_special_tokens=True) for row in ids]
    write(name, {"vocabulary": vocabulary, "ids": ids, "decoded": decoded})
    return tokenizer


# --- tokenizer.json files, with what real ones have baked in


def files():
    tokenizer = word_piece("word_piece_cased.json", lowercase=False)
    tokenizer = word_piece("word_piece.json", lowercase=True)
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=16)
    (HERE / "word_piece").mkdir(exist_ok=True)
    tokenizer.save(str(HERE / "word_piece/tokenizer.json"), pretty=False)
    (HERE / "word_piece/special_tokens_map.json").write_text(
        json.dumps({"cls_token": "[CLS]", "sep_token": {"content": "[SEP]"}, "unk_token": "[UNK]"}) + "\n"
    )


def real():
    minilm = AutoTokenizer.from_pretrained(MODELS / "all-minilm-l6-v2")
    backend = minilm.backend_tokenizer
    ids = plain_ids(backend, add_special=True)
    write("minilm.json", {"ids": ids, "decoded": [minilm.decode(row, skip_special_tokens=True) for row in ids]})
    smollm2 = AutoTokenizer.from_pretrained(
        MODELS / "smollm2-135m-instruct", gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf"
    )
    backend = smollm2.backend_tokenizer
    # transformers leaves the family's own digit rule out of what it reads from GGUF.
    backend.pre_tokenizer = PRE_TOKENIZERS["smollm"]
    ids = plain_ids(backend)
    backend.encode_special_tokens = False
    marked = [
        "<|im_start|>user\nHi<|im_end|>\n",
        "<|endoftext|>",
        "a <|im_start|> b<|im_end|><|im_end|>c",
        "<|im_start|><|im_start",
    ]
    rows = [[text, backend.encode(text, add_special_tokens=False).ids] for text in marked]
    write("smollm2.json", {"ids": ids, "template": rows})


if __name__ == "__main__":
    write("corpus.json", TEXTS)
    byte_level()
    llama()
    unigram()
    files()
    real()
